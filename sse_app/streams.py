"""`Stream`: one client's subscription as bytes, with its heartbeat and the end of its life."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, ClassVar, Final

from django.conf import settings as django_settings
from django.core.exceptions import ObjectDoesNotExist

from . import control, signals
from .admission import Access
from .authorization import is_public
from .cohorts import gather
from .conf import settings
from .connections import Reply, connection_id, user_digest
from .control import Reader, Revocation
from .counters import COUNTS, count
from .cursors import Position
from .eventlog.contract import Reason
from .events import HEARTBEAT, Event, encode_control
from .farewells import UNHEARD, farewell
from .fingerprints import Fingerprint
from .greetings import Sharing, greeting
from .hub import Hub
from .limits import Places
from .records import about
from .replay import Start
from .revalidation import Revalidator
from .sessions import session_digest
from .sinks import Sink
from .snapshots import SnapshotFailed, State
from .subscriptions import NONE, Subscription
from .transports import Direct, Transport

logger = logging.getLogger("sse_app")

#: By how much a replica may lag. A policy that may have read from one is asked again after that.
LAG_SECONDS: Final = 10.0


class Stream(Sink, Reader):
    """What signals and the hub see of one client's response. Its subscription feeds it."""

    takes_first: ClassVar[bool] = True

    def __init__(
        self,
        hub: Hub,
        transport: Transport,
        access: Access,
        names: Collection[str] = (),
        *,
        sender: type,
        places: Places,
        address: str = "",
        ping: bool = False,
        labelled: bool = False,
        life: float,
    ) -> None:
        #: Names it in the log and to the admin; opens nothing.
        self.id = secrets.token_hex(6)
        #: Where it began: the id of `sse.open`, or of its first states. Empty before that.
        self.opened = ""
        self.subscription = Subscription(self, access.groups, names, labelled=labelled)
        self.access = access
        self._sender = sender
        self._places = places
        self.address = address
        self._opened = self._live = False
        self.opened_at = time.time()
        self.user_key = access.user_key
        self.session_key = access.session_key
        self.session_moves = access.session_moves
        self.session_digest = session_digest(access.session_key)
        self.hub = hub
        self._transport = transport
        self._revoked: list[str] = []
        #: Whether a signal told of a change that the fingerprint may not show.
        self._told = False
        #: Until then the policy may have seen a replica that lags.
        self._settles_at = _lag_ends()
        #: The groups that only the former user may hear; if empty, `sse.close` is about all groups.
        self._ended: tuple[str, ...] = ()
        #: Where each group was reset to that was, and why.
        self.resets: Mapping[str, tuple[Position, Reason]] = NONE
        self._ping = ping
        self._sent = 0
        self._written_at = time.monotonic()
        self._ends_at = self._written_at + life * random.uniform(0.8, 1.2)
        self._pinged: Mapping[str, Position] = NONE
        transport.on_broken = self.subscription.close

    async def open(self, start: Start) -> None:
        """Write `sse.open`, once the response has begun; its id is the place before the replay."""
        self._opened = True
        COUNTS.opened += 1
        await self._transport.start()
        # One of its groups may have been taken from it while it joined.
        positions = {group: start.positions[group] for group in self.groups}
        self.subscription.move(positions)
        if self._ping:
            self._pinged = positions
        self.opened = self.subscription.cursor
        self._write(self._greeting(start))
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
                extra=about(stream=self.id, groups=self.groups, error=error),
            )
            if isinstance(error, SnapshotFailed):
                self.close("snapshot")  # The client must not believe that it knows the state.
            self.close("log")
        finally:
            await self.end()

    async def end(self) -> None:
        """Write what is to be said at the end, end the response, and give back what it had."""
        self.subscription.part()
        self.hub.tickers.discard(self.tick)
        try:
            if self._opened:
                reason = self.close_reason or "error"
                if reason not in UNHEARD:
                    id = self.subscription.cursor if self.subscription.positions else ""
                    lost = self._ended if self.subscription.kind[1] and reason == "auth" else ()
                    self._write(farewell(reason, id, lost, retry=settings().RETRY))
                await self._transport.finish()
        finally:
            self._places.release()
            control.leave(self)
            await self.hub.leave(self.subscription)
            if self._opened:
                count(COUNTS.closed, self.close_reason or "error")
                await signals.stream_closed.asend_robust(sender=self._sender, stream=self)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that serves it."""
        return self.hub.loop

    @property
    def user(self) -> Any:
        """Who listens; an `AnonymousUser` if nobody signed in."""
        return self.access.user

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
        elif self.access.until is not None and time.time() >= self.access.until:
            self.subscription.close("expired")
        elif now - written_at >= settings().HEARTBEAT and self._transport.ready:
            self._write(self._heartbeat())
        elif cohort is None:
            gather(self.subscription, self.hub.topics)

    # --- Reader ---

    @property
    def held(self) -> int:
        return self.subscription.held

    def revoke(self, revocation: Revocation) -> None:
        if revocation.group and not revocation.review:
            self._revoked.append(revocation.group)
        if revocation.review:
            self._told = True
        if revocation.group or revocation.review:
            self.subscription.hold()
            then: Callable[[], None] = self.hub.service(Revalidator).soon
        else:
            # A session that ends takes nothing that is public; `disconnect()` takes everything.
            reason = self._signed_out() if revocation.session else "auth"
            self.subscription.cut(reason)
            then = partial(self.subscription.close, reason)
        try:
            self.loop.call_soon_threadsafe(then)
        except RuntimeError:
            pass  # The loop has closed, and the stream with it.

    def take(self, reply: Reply) -> None:
        self.subscription.take_alone(reply)

    async def lose_revoked(self) -> None:
        while self._revoked:
            await self._lose(self._revoked.pop())

    async def readmit(self, fingerprint: Fingerprint) -> None:
        before, told, settles_at = self.access.fingerprint, self._told, self._settles_at
        if before is None or fingerprint.password != before.password:
            self.sign_out()
            return
        changed = fingerprint != before
        if not (changed or told or settles_at):
            return
        self._told = False
        if changed or told:
            self._settles_at = _lag_ends()
        elif time.monotonic() >= settles_at:
            self._settles_at = 0.0
        try:
            for group in await self._lost(changed=changed):
                await self._lose(group)
        except BaseException:
            # Asked again in the next round. A signal may have told of a change meanwhile.
            self._told, self._settles_at = self._told or told, settles_at
            raise
        self.access.fingerprint = fingerprint

    async def _lost(self, *, changed: bool) -> set[str]:
        """Return the groups that the user may not listen to any more, by what permits them now.

        A signed page's groups are the policy's only once the user's rights have `changed`.
        """
        if changed:
            self.access.granted = frozenset()
        asked = set(self.groups) - self.access.granted
        if not asked:
            return set()
        try:
            await self.access.refresh()
        except ObjectDoesNotExist:  # The user was deleted a moment ago.
            self.sign_out()
            return set()
        return asked - set(await self.access.permitted(asked))

    def release(self, mark: int) -> None:
        self.subscription.release(mark)

    def sign_out(self) -> None:
        self.close(self._signed_out())

    def _signed_out(self) -> str:
        """Return the reason. A stream of public groups reconnects at once, as the present user."""
        self._ended = tuple(group for group in self.groups if not is_public([group]))
        needs_user = self._ended and self.user_key
        return "auth" if needs_user or self.access.token_key else "session"

    def close(self, reason: str) -> None:
        self.subscription.close(reason)

    async def _lose(self, group: str) -> None:
        if self.groups == (group,):
            self.close("auth")
        elif group in self.groups and self.close_reason is None:
            await self.hub.drop(self.subscription, group)
            if self._live:
                self.reset(group, "unknown", self.subscription.cursor)
            lost = signals.stream_lost_group
            await lost.asend_robust(sender=self._sender, stream=self, group=group)

    # --- Sink ---

    @property
    def ready(self) -> bool:
        return self._transport.ready

    async def drained(self) -> None:
        await self._transport.drained()

    def show(self, event: Event, cursor: str, block: bytes) -> None:
        self._write(block)

    def reset(self, group: str, reason: Reason, cursor: str) -> None:
        if (place := self.subscription.positions.get(group)) is not None:
            self.resets = {**self.resets, group: (place, reason)}
        count(COUNTS.resets, reason)
        self._write(encode_control("sse.reset", {"group": group, "reason": reason}, id=cursor))

    def snapshot(self, state: State, cursor: str) -> None:
        if (told := self.resets.get(state.group)) is not None:
            self.resets = {**self.resets, state.group: (state.position, told[1])}
        else:
            self.opened = cursor
        self._write(state.encode(cursor, labelled=self.subscription.kind[1]))

    def passed(self, cursor: str) -> None:
        self._write(encode_control("sse.cursor", {}, id=cursor))

    def direct(self) -> Direct | None:
        return self._transport.direct()

    def gathered(self, before: int) -> None:
        self._sent -= before
        self._transport.gathered(before)

    def parted(self, written: int, at: float, rest: bytes | None, pending: bytes) -> None:
        self._sent += written
        self._written_at = max(self._written_at, at)
        self._transport.parted(written, rest)
        if pending:
            self._write(pending)

    def _greeting(self, start: Start) -> bytes:
        limits, (groups, labelled) = settings(), self.subscription.kind
        sharing = Sharing(user_digest(self.user_key), limits.HEARTBEAT, limits.MAX_GROUPS)
        return greeting(
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
        self.subscription.part()
        self._written_at = time.monotonic()
        self._sent += len(chunk)
        COUNTS.bytes += len(chunk)
        self._transport.write(chunk)


def _lag_ends() -> float:
    """Return until when, by the monotonic clock, a policy that is asked now may see old rights.

    0 where no database router can lead the policy to a replica.
    """
    return time.monotonic() + LAG_SECONDS if django_settings.DATABASE_ROUTERS else 0.0
