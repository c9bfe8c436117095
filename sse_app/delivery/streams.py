"""`Stream`: one client's subscription as bytes, with its heartbeat and the end of its life."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

from .. import signals
from ..conf import settings
from ..eventlog.contract import Reason
from ..protocol.control import DISCONNECTED, Sharing, closing_block, opening_block
from ..protocol.cursors import Position
from ..protocol.events import HEARTBEAT, Event, encode_control
from ..protocol.replies import Reply, connection_id, user_digest
from ..runtime.telemetry import COUNTS, count, log_fields
from .cohorts import join_cohort
from .hub import Hub
from .replay import Start
from .sinks import Sink
from .snapshots import SnapshotFailed, State
from .subscriptions import EMPTY, Subscription
from .transports.asgi import Direct, Transport

logger = logging.getLogger("sse_app")


class Stream(Sink):
    """What signals and the hub see of one client's response. Its subscription feeds it.

    `user` and `user_key` say who listens: an `AnonymousUser` and "" if nobody signed in. `until`
    is the Unix time at which the stream ends as expired, None if it doesn't.
    """

    takes_first: ClassVar[bool] = True

    def __init__(
        self,
        hub: Hub,
        transport: Transport,
        groups: Collection[str],
        names: Collection[str] = (),
        *,
        user: Any,
        user_key: str,
        until: float | None,
        sender: type,
        address: str = "",
        ping: bool = False,
        labelled: bool = False,
        life: float,
    ) -> None:
        #: Names it in the log and to the admin; opens nothing.
        self.id = secrets.token_hex(6)
        #: Where it began: the id of `sse.open`, or of its first states. Empty before that.
        self.opened = ""
        self.subscription = Subscription(self, groups, names, labelled=labelled)
        #: The groups that the client asked for; `groups` are those that it still listens to.
        self.asked = self.subscription.groups
        self.user = user
        self.user_key = user_key
        self.until = until
        self._sender = sender
        self.address = address
        self._opened = self._live = False
        self.opened_at = time.time()
        self.hub = hub
        self._transport = transport
        self._at_end: tuple[Callable[[], None], ...] = ()
        #: The groups that `sse.close` is about; if empty, it is about all groups.
        self._closed_groups: Collection[str] = ()
        #: Where each group was reset to that was, and why.
        self.resets: Mapping[str, tuple[Position, Reason]] = EMPTY
        self._ping = ping
        self._sent = 0
        self._written_at = time.monotonic()
        self._ends_at = self._written_at + life * random.uniform(0.8, 1.2)
        self._pinged: Mapping[str, Position] = EMPTY
        transport.on_broken = self.subscription.close

    async def open(self, start: Start) -> None:
        """Write `sse.open`, once the response has begun; its id is the cursor before the replay."""
        self._opened = True
        COUNTS.opened += 1
        await self._transport.start()
        # One of its groups may have been taken from it while it joined.
        positions = {group: start.positions[group] for group in self.groups}
        self.subscription.move(positions)
        if self._ping:
            self._pinged = positions
        self.opened = self.subscription.cursor
        self._write(self._opening_block(start))
        self._live = True
        for group in self.groups:
            if group in start.first:
                self.subscription.begin(group, start.first[group])
        self.hub.tickers.add(self.tick)
        await signals.stream_opened.asend_robust(sender=self._sender, stream=self)

    async def run(self) -> None:
        """Serve an open stream until it is closed, and end it."""
        try:
            await self.subscription.run(self.hub)
        except asyncio.CancelledError:
            # The server is stopping and cancels once: what `finally` awaits still runs.
            self.close("shutdown")
            raise
        except Exception as error:
            # What ends a stream that was behind: nothing is lost, the client comes back.
            logger.warning(
                "What a stream needs did not answer, so it ends: %r",
                error,
                extra=log_fields(stream=self.id, groups=self.groups, error=error),
            )
            if isinstance(error, SnapshotFailed):
                self.close("snapshot")  # The client must not believe that it knows the state.
            self.close("log")
        finally:
            await self.end()

    async def end(self) -> None:
        """Write what is to be said at the end, end the response, and give back what it had."""
        self.subscription.leave_cohort()
        self.hub.tickers.discard(self.tick)
        try:
            if self._opened:
                reason = self.close_reason or "error"
                if reason not in DISCONNECTED:
                    id = self.subscription.cursor if self.subscription.positions else ""
                    lost = self._closed_groups if self.subscription.kind[1] else ()
                    self._write(closing_block(reason, id, lost, retry=settings().RETRY))
                await self._transport.finish()
        finally:
            callbacks, self._at_end = self._at_end, ()
            for callback in callbacks:
                callback()
            await self.hub.leave(self.subscription)
            if self._opened:
                count(COUNTS.closed, self.close_reason or "error")
                await signals.stream_closed.asend_robust(sender=self._sender, stream=self)

    @property
    def groups(self) -> tuple[str, ...]:
        """What it listens to."""
        return self.subscription.groups

    @property
    def bytes_sent(self) -> int:
        """How many bytes of its body were written."""
        cohort = self.subscription.cohort
        return self._sent + (cohort.bytes if cohort is not None else 0)

    @property
    def close_reason(self) -> str | None:
        """Why the stream ended; None while it is open."""
        return self.subscription.close_reason

    @property
    def queue(self) -> int:
        """How many bytes wait for its client to take them, as far as this process knows."""
        return self._transport.waiting

    def tick(self, now: float) -> None:
        """Do what time asks for: a heartbeat, the end of life, giving up a stalled client."""
        self._transport.check(now)
        cohort = self.subscription.cohort
        written_at = max(self._written_at, 0.0 if cohort is None else cohort.written_at)
        if now >= self._ends_at:
            self.subscription.close("age")
        elif self.until is not None and time.time() >= self.until:
            self.subscription.close("expired")
        elif now - written_at >= settings().HEARTBEAT and self._transport.ready:
            self._write(self._heartbeat())
        elif cohort is None:
            join_cohort(self.subscription, self.hub.topics)

    def at_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the stream has ended, on its loop."""
        self._at_end += (callback,)

    def close(self, reason: str, groups: Collection[str] = ()) -> None:
        """End the stream; the first reason counts. `groups`: see `mute()`."""
        self.mute(reason, groups)
        self.subscription.close(reason)

    def mute(self, reason: str, groups: Collection[str] = ()) -> None:
        """Show nothing more. From any thread; `close()` must follow on the stream's loop.

        `groups`: of a connection that several pages share, only the pages of these groups lose
        anything. If empty, all do.
        """
        if self.close_reason is None:
            self._closed_groups = groups
        self.subscription.mute(reason)

    async def lose(self, group: str) -> None:
        """Serve one of several groups no more, and tell the client and the signal's receivers."""
        if group not in self.groups or self.close_reason is not None:
            return
        await self.hub.drop(self.subscription, group)
        if self._live:
            self.reset(group, "unknown", self.subscription.cursor)
        lost = signals.stream_lost_group
        await lost.asend_robust(sender=self._sender, stream=self, group=group)

    def take(self, reply: Reply) -> None:
        """Show what is for this stream alone."""
        self.subscription.take_alone(reply)

    # --- Sink ---

    @property
    def ready(self) -> bool:
        return self._transport.ready

    async def drained(self) -> None:
        await self._transport.drained()

    def show(self, event: Event, cursor: str, block: bytes) -> None:
        self._write(block)

    def reset(self, group: str, reason: Reason, cursor: str) -> None:
        if (position := self.subscription.positions.get(group)) is not None:
            self.resets = {**self.resets, group: (position, reason)}
        count(COUNTS.resets, reason)
        self._write(encode_control("sse.reset", {"group": group, "reason": reason}, id=cursor))

    def snapshot(self, state: State, cursor: str) -> None:
        if (reset := self.resets.get(state.group)) is not None:
            self.resets = {**self.resets, state.group: (state.position, reset[1])}
        else:
            self.opened = cursor
        self._write(state.encode(cursor, labelled=self.subscription.kind[1]))

    def passed(self, cursor: str) -> None:
        self._write(encode_control("sse.cursor", {}, id=cursor))

    def direct(self) -> Direct | None:
        return self._transport.direct()

    def joined_cohort(self, before: int) -> None:
        self._sent -= before
        self._transport.joined_cohort(before)

    def left_cohort(self, written: int, at: float, rest: bytes | None, pending: bytes) -> None:
        self._sent += written
        self._written_at = max(self._written_at, at)
        self._transport.left_cohort(written, rest)
        if pending:
            self._write(pending)

    def _opening_block(self, start: Start) -> bytes:
        limits, (groups, labelled) = settings(), self.subscription.kind
        sharing = Sharing(user_digest(self.user_key), limits.HEARTBEAT, limits.MAX_GROUPS)
        return opening_block(
            groups,
            self.opened,
            connection=connection_id(self.id, self.user_key),
            recovered=start.recovered,
            missed=start.missed,
            retry=limits.RETRY,
            sharing=sharing if labelled else None,
        )

    def _heartbeat(self) -> bytes:
        if not self._ping:
            return HEARTBEAT
        positions = self.subscription.positions
        moved, self._pinged = positions != self._pinged, dict(positions)
        return encode_control("sse.ping", {}, id=self.subscription.cursor if moved else "")

    def _write(self, chunk: bytes) -> None:
        self.subscription.leave_cohort()
        self._written_at = time.monotonic()
        self._sent += len(chunk)
        COUNTS.bytes += len(chunk)
        self._transport.write(chunk)
