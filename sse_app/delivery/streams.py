"""`Stream`: one client's response: its subscription as bytes, its heartbeat, and its end."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf
from typing import Any, ClassVar, Final

from .. import signals
from ..conf import settings
from ..eventlog.contract import Reason
from ..protocol.control import (
    DISCONNECTED,
    Sharing,
    closing_block,
    opening_block,
    reset_block,
)
from ..protocol.cursors import Position
from ..protocol.events import Event, encode_control
from ..protocol.groups import namespace_of, scoped
from ..protocol.replies import connection_id, user_digest
from ..runtime.rare_logs import RareLog
from ..runtime.telemetry import COUNTS, count, log_fields
from .cohorts import join_cohort
from .hub import Hub
from .replay import Start
from .sinks import Sink
from .snapshots import SnapshotFailed, State
from .subscriptions import EMPTY, Subscription
from .timers import Timer
from .transports.asgi import Direct, Transport

#: The time from the first event of a stream with `wait` to its end.
BRIEF_SECONDS: Final = 0.05

_read_failed = RareLog(logging.getLogger("sse_app"))


class Stream(Sink):
    """One client's response, as signals and the hub see it; the sink of its subscription.

    For an anonymous reader, `user` is an `AnonymousUser` and `user_key` is "". The stream ends
    `life` seconds ± 20 % after its start. If `until` is a Unix time, the stream ends as expired
    then. With `wait`, the stream ends `wait` seconds ± 20 % after its start, or `BRIEF_SECONDS`
    after the first bytes that follow `sse.open`: a proxy that buffers passes bytes on only when
    the response has ended.
    """

    takes_first: ClassVar[bool] = True
    #: A name for logs and the admin, which gives no rights.
    id: str
    #: The id of `sse.open`, then of the first states; empty before that.
    opened: str
    #: The groups that the client asked for; `groups` are the ones that are left.
    asked: tuple[str, ...]
    #: By group, the position after its last reset, and the reason.
    resets: Mapping[str, tuple[Position, Reason]]

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
        wait: int | None = None,
        life: float,
    ) -> None:
        # All attributes are set here, although some only get defaults: an attribute that is added
        # to thousands of streams later would cost each of them a dict of its own.
        self.id = secrets.token_hex(6)
        self.opened = ""
        self.subscription = Subscription(self, groups, names, labelled=labelled, pings=ping)
        self.asked = self.subscription.groups
        self.user, self.user_key = user, user_key
        self.until, self.sender, self.address = until, sender, address
        self._opened = self._live = False
        self.opened_at = time.time()
        self.hub, self._transport, self._brief = hub, transport, wait is not None
        self._at_end: tuple[Callable[[], None], ...] = ()
        self._sent, self.resets = 0, EMPTY
        self._written_at = time.monotonic()
        self._ends_at = self._written_at + (wait or life) * random.uniform(0.8, 1.2)
        self._pinged: Mapping[str, Position] = EMPTY
        self.timer: Timer | None = None
        transport.on_broken, transport.on_waiting = self.subscription.close, self._visit_by

    async def open(self, start: Start) -> None:
        """Write `sse.open` after the response has started; its id is the cursor before replay."""
        self._opened = True
        COUNTS.opened += 1
        await self._transport.start()
        # A group may have been dropped while the subscription joined the hub.
        positions = {group: start.positions[group] for group in self.groups}
        self.subscription.positions.update(positions)
        if self.subscription.kind.pings:
            self._pinged = positions
        self.opened = self.subscription.cursor
        self._write(_opening_block(self, start))
        self._live = True
        for group in self.groups:
            if group in start.first:
                self.subscription.begin(group, start.first[group])
        self._visit_by(self._written_at)
        await signals.stream_opened.asend_robust(sender=self.sender, stream=self)

    async def run(self) -> None:
        """Serve an open stream until it is closed, then `end()` it."""
        try:
            await self.subscription.run(self.hub)
        except asyncio.CancelledError:
            # A server that stops cancels the task once, so `finally` can still await.
            self.close("shutdown")
            raise
        except Exception as error:
            # The stream was catching up. No event is lost, because the client reconnects.
            _read_failed(
                "A stream ends, because it could not read the event log or a snapshot: %r",
                error,
                extra=log_fields(stream=self.id, groups=self.groups, error=error),
            )
            if isinstance(error, SnapshotFailed):
                self.close("snapshot")  # Tells the client that it does not have the state.
            self.close("log")
        finally:
            await self.end()

    async def end(self) -> None:
        """Write `sse.close`, end the response, and release what the stream holds."""
        try:
            self.subscription.leave_cohort()
            if self._opened:
                reason = self.close_reason or "error"
                if reason not in DISCONNECTED:
                    id = self.subscription.cursor if self.subscription.positions else ""
                    lost = self.subscription.closed_groups if self.subscription.kind[1] else ()
                    self._write(closing_block(reason, id, lost, retry=settings().RETRY))
                await self._transport.finish()
        finally:
            self.hub.timers.cancel(self)
            callbacks, self._at_end = self._at_end, ()
            for callback in callbacks:
                callback()
            try:
                await self.hub.leave(self.subscription)
            finally:
                await self._tell_end()

    async def _tell_end(self) -> None:
        if self._opened:
            count(COUNTS.closed, self.close_reason or "error")
            await signals.stream_closed.asend_robust(sender=self.sender, stream=self)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that the client listens to now."""
        return self.subscription.groups

    @property
    def bytes_sent(self) -> int:
        """How many bytes of the response body were written."""
        cohort = self.subscription.cohort
        return self._sent + (cohort.bytes if cohort is not None else 0)

    @property
    def close_reason(self) -> str | None:
        """The reason for which the stream ended; None while it is open."""
        return self.subscription.close_reason

    @property
    def queue(self) -> int:
        return self._transport.waiting

    def tick(self, now: float) -> float:
        """See `Timed`: send a due heartbeat; end a stream that is too old, expired or stalled."""
        check_at = self._transport.check(now)
        expires_at = inf if self.until is None else now + self.until - time.time()
        if now >= min(self._ends_at, expires_at):
            self.subscription.close("age" if now >= self._ends_at else "expired")
        if self.close_reason is not None:
            return inf
        return min(check_at, self._ends_at, expires_at, self._beat(now))

    def _beat(self, now: float) -> float:
        """Outside of a cohort, send a due heartbeat and try to join one; return the next time."""
        subscription, waiting = self.subscription, self._transport.waiting
        beats_at = self._written_at + settings().HEARTBEAT
        if subscription.cohort is None and now >= beats_at and self._transport.ready:
            self._write(subscription.kind.heartbeat(subscription.positions, self._pinged))
            self._pinged = dict(subscription.positions) if subscription.kind.pings else EMPTY
        join_cohort(subscription, self.hub)
        if subscription.cohort is not None:
            return inf
        # A cohort takes no member with waiting bytes, and nothing tells when they were sent.
        return now if waiting else self._written_at + settings().HEARTBEAT

    def _visit_by(self, when: float) -> None:
        self.hub.timers.at(when, self)
        self.hub.sending.add(self)

    def at_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the stream's loop when the stream has ended."""
        self._at_end += (callback,)

    def close(self, reason: str, groups: Collection[str] = ()) -> None:
        """End the stream; the first reason counts. `groups`: see `mute()`."""
        self.mute(reason, groups)
        self.subscription.close(reason)

    def mute(self, reason: str, groups: Collection[str] = ()) -> None:
        """Show no more events. From any thread; `close()` must follow on the stream's loop.

        `groups`: of the pages that share the stream, only those of these groups end; all if empty.
        """
        self.subscription.mute(reason, groups)

    async def lose(self, group: str) -> None:
        """Drop one of several groups; the client gets `sse.reset`, and a signal is sent."""
        if group not in self.groups or self.close_reason is not None:
            return
        await self.hub.drop(self.subscription, group)
        if self._live:
            self.reset(group, "unknown", self.subscription.cursor)
        await signals.stream_lost_group.asend_robust(sender=self.sender, stream=self, group=group)

    # --- Sink ---

    @property
    def ready(self) -> bool:
        return self._transport.ready

    async def drained(self) -> None:
        await self._transport.drained()

    def show(self, event: Event, cursor: str, block: bytes) -> None:
        self._write(block)

    def hidden(self, event: Event) -> Sequence[str] | None:
        return _hidden(self, event)

    def reset(self, group: str, reason: Reason, cursor: str) -> None:
        if (position := self.subscription.positions.get(group)) is not None:
            self.resets = {**self.resets, group: (position, reason)}
        count(COUNTS.resets, reason)
        self._write(reset_block(group, reason, cursor))

    def snapshot(self, state: State, cursor: str) -> None:
        if (reset := self.resets.get(state.group)) is not None:
            self.resets = {**self.resets, state.group: (state.position, reset[1])}
        else:
            self.opened = cursor
        self._write(state.encode(cursor, labelled=self.subscription.kind.labelled))

    def passed(self, cursor: str) -> None:
        self._write(encode_control("sse.cursor", {}, id=cursor))

    def direct(self) -> Direct | None:
        return None if self._brief else self._transport.direct()  # To notice its own bytes.

    def joined_cohort(self, before: int) -> float:
        self._sent -= before
        self._transport.joined_cohort(before)
        return self._written_at

    def left_cohort(self, written: int, at: float, rest: bytes | None, pending: bytes) -> None:
        self._sent += written
        self._written_at = max(self._written_at, at)
        self._transport.left_cohort(written, rest)
        if pending:
            self._write(pending)
        self._visit_by(self._written_at)

    def _write(self, chunk: bytes) -> None:
        self.subscription.leave_cohort()
        self._written_at = time.monotonic()
        if self._brief and self._live:
            self._brief, self._ends_at = False, self._written_at + BRIEF_SECONDS
            self._visit_by(self._ends_at)
        self._sent += len(chunk)
        COUNTS.bytes += len(chunk)
        self._transport.write(chunk)


def full_user_key(stream: Stream) -> str:
    """Return the stream's `user_key` with the namespace of its groups before it.

    Each tenant may have a user 5. Empty for an anonymous reader.
    """
    return stream.user_key and scoped(stream.user_key, namespace_of(stream.asked[0]))


def _hidden(stream: Stream, event: Event) -> Sequence[str] | None:
    labelled = stream.subscription.kind.labelled
    if any(page.stream == stream.id and not (labelled and page.tab) for page in event.excluded):
        return ()
    if not labelled:
        return None
    # A tab is found by its user, as the stream's id is another one after a reconnect. Without the
    # user, a visitor who learned the id of another visitor's tab could hide events there.
    own = full_user_key(stream) if stream.user_key else None
    pages = [page for page in event.excluded if page.stream == stream.id or page.user == own]
    return [page.tab for page in pages if page.tab] or None


def _opening_block(stream: Stream, start: Start) -> bytes:
    limits, kind = settings(), stream.subscription.kind
    key = full_user_key(stream)
    sharing = Sharing(user_digest(key), limits.HEARTBEAT, limits.MAX_GROUPS)
    return opening_block(
        kind.groups,
        stream.opened,
        connection=connection_id(stream.id, key),
        recovered=start.recovered,
        missed=start.missed,
        retry=limits.RETRY,
        sharing=sharing if kind.labelled else None,
    )
