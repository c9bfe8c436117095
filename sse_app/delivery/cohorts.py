"""`Cohort`: live streams of one kind on plain Daphne connections, written to as one.

Thousands of streams mostly get the same bytes at the same moment. The objects of each stream have
left the processor's caches by then, so that using them costs more than the system call `send`.
Therefore the members of a cohort share their positions and their pending bytes, which are framed
once, and each member costs one `send`.

A member leaves the cohort and is served alone when it did not take all bytes, when it is held or
closed, and when it writes bytes that the others do not get. Afterwards it may join again.
"""

from __future__ import annotations

import asyncio
import sys
import time
from math import inf
from typing import Final, Protocol

from ..conf import settings
from ..protocol.cursors import Position, encode_cursor
from ..protocol.events import Event
from ..runtime.telemetry import COUNTS
from .feed import Feed
from .sinks import Sink
from .timers import Timer, Timers
from .topics import Kind, Listener, Topic
from .transports.asgi import Direct
from .transports.chunked import FLUSH_BYTES, FLUSH_STREAMS, frame

#: For fewer readers a cohort is not faster.
LEAST_MEMBERS: Final = 8


class Member(Listener, Protocol):
    """A reader that a cohort may write for. The cohort sets `cohort`, `index` and `positions`."""

    #: See `topics.Kind`.
    kind: Kind
    #: The names of the events that are shown; all events if empty.
    names: frozenset[str]
    sink: Sink
    positions: dict[str, Position]
    live: bool
    held: int
    close_reason: str | None
    cohort: Cohort | None
    #: The index among the cohort's members.
    index: int


def join_cohort(subscription: Member, feed: Feed) -> None:
    """Let `subscription` join the cohort of its kind, if it is live, unfiltered and writable.

    Makes the cohort if each group has at least `LEAST_MEMBERS` readers.
    """
    if subscription.cohort is not None or not subscription.live or subscription.names:
        return
    kind = subscription.kind
    own = [feed.topics[group] for group in kind.groups]
    cohort = own[0].cohorts.get(kind)
    if cohort is None and min(topic.readers for topic in own) < LEAST_MEMBERS:
        return
    send = subscription.sink.direct()
    if send is None:
        return
    if not isinstance(cohort, Cohort):
        cohort = Cohort(kind, own, feed.timers)
    cohort.join(subscription, send)


class Cohort:
    """Used on its loop only, except `suspect()`. A cohort without members is removed.

    The events of one loop iteration are sent at its end, to `FLUSH_STREAMS` members at a time, so
    that thousands of members delay other work only for a short time.
    """

    def __init__(self, kind: Kind, topics: list[Topic], timers: Timers) -> None:
        #: The positions of all members, in one dict: those of the topics.
        self.positions: dict[str, Position] = {}
        for group, topic in zip(kind.groups, topics, strict=True):
            assert topic.position is not None, f"{group} has live readers"
            self.positions[group] = topic.position
        #: The earliest time of the members' last writes.
        self.written_at = time.monotonic()
        #: How many bytes a member that joined first was sent.
        self.bytes = 0
        self.timer: Timer | None = None
        self._kind = kind
        self._topics = topics
        self._timers = timers
        self._pinged: dict[str, Position] = {}
        self._members: list[Member] = []
        self._sends: list[Direct] = []
        self._suspects: set[Member] = set()
        self._pending: list[bytes] = []
        self._size = 0
        self._round: _Round | None = None
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._members)

    def join(self, subscription: Member, send: Direct) -> None:
        """Add a live subscription; `send` writes to its socket."""
        self.flush()
        for topic in self._topics:
            # Set here and not when the cohort is made: the flush may have removed the last member.
            topic.cohorts[self._kind] = self
            topic.subscriptions.discard(subscription)
        subscription.cohort, subscription.index = self, len(self._members)
        subscription.positions = self.positions
        self._members.append(subscription)
        self._sends.append(send)
        self.written_at = min(self.written_at, subscription.sink.joined_cohort(self.bytes))
        self._timers.at(self.written_at + settings().HEARTBEAT, self)
        # Another thread may have held or muted the subscription before that thread could see
        # `subscription.cohort`.
        if subscription.held or subscription.close_reason is not None:
            self.suspect(subscription)

    def suspect(self, subscription: Member) -> None:
        """Have a member leave before the next event is offered. From any thread."""
        self._suspects.add(subscription)

    def drop_suspects(self) -> None:
        """Let all suspects leave the cohort."""
        while self._suspects:
            self.leave(self._suspects.pop())

    def leave(self, subscription: Member) -> None:
        """Serve a member alone from now on; events that it was offered before are sent first."""
        if self._round is not None:
            self._send(sys.maxsize)
        if subscription.cohort is self:
            self._remove(subscription, b"")

    def dissolve(self) -> None:
        """Serve all members alone from now on."""
        self.flush()
        for subscription in list(self._members):
            self.leave(subscription)

    def offer(self, event: Event, position: Position | None) -> int:
        """Take the next event of a topic, after `drop_suspects()`; return how many get it."""
        id = ""
        if position is not None:
            self.positions[event.group] = position
            id = encode_cursor(self.positions, time.time())
        members = len(self._members)
        self._take(event.encode(id, labelled=self._kind.labelled))
        return members

    def tick(self, now: float) -> float:
        """See `Timed`: send a due heartbeat to all members."""
        beats_at = self.written_at + settings().HEARTBEAT
        if not self._members:
            return inf
        if now < beats_at:
            return beats_at
        self._take(self._kind.heartbeat(self.positions, self._pinged))
        self._pinged = dict(self.positions)
        return now + settings().HEARTBEAT

    def _take(self, block: bytes) -> None:
        self._pending.append(block)
        self._size += len(block)
        if self._size > FLUSH_BYTES:
            self.flush()
        elif not self._scheduled:
            self._schedule()

    def flush(self) -> None:
        """Send all pending bytes to all members now."""
        while self._round is not None or self._pending:
            self._send(sys.maxsize)

    def _schedule(self) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        self._send(FLUSH_STREAMS)
        if self._round is not None or self._pending:
            self._schedule()

    def _send(self, most: int) -> None:
        """Continue the round, or begin one with the pending bytes, for at most `most` members."""
        if self._round is None:
            if not self._pending:
                return
            chunk = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
            self._pending.clear()
            self._size = 0
            self.bytes += len(chunk)
            self.written_at = time.monotonic()
            self._round = _Round(chunk, self._members, self._sends)
        current = self._round
        behind = current.send_next(most)
        if current.done:
            self._round = None
        for subscription, rest in behind:
            if subscription.cohort is self:
                self._remove(subscription, rest)

    def _remove(self, subscription: Member, rest: bytes | None) -> None:
        """Remove a member. `rest`: bytes that it did not take, None if its connection broke."""
        last, send = self._members.pop(), self._sends.pop()
        if last is not subscription:
            self._members[subscription.index], self._sends[subscription.index] = last, send
            last.index = subscription.index
        for topic in self._topics:
            topic.subscriptions.add(subscription)
            if not self._members:
                topic.cohorts.pop(self._kind, None)
                self._timers.cancel(self)
        self._suspects.discard(subscription)
        subscription.cohort = None
        subscription.positions = dict(self.positions)
        subscription.sink.left_cohort(self.bytes, self.written_at, rest, b"".join(self._pending))


class _Round:
    """One chunk, and the members at its beginning, to which it is sent in turn."""

    def __init__(self, chunk: bytes, members: list[Member], sends: list[Direct]) -> None:
        self._framed = frame(chunk)
        self._members = members.copy()
        self._sends = sends.copy()
        self._next = 0
        COUNTS.bytes += len(chunk) * len(members)

    @property
    def done(self) -> bool:
        """Whether the chunk was sent to all members."""
        return self._next >= len(self._sends)

    def send_next(self, most: int) -> list[tuple[Member, bytes | None]]:
        """Send to the next `most`; return the members that did not take all, each with its rest.

        For the rest, see `Cohort._remove()`.
        """
        framed, size = self._framed, len(self._framed)
        behind: list[tuple[Member, bytes | None]] = []
        sends = self._sends[self._next : self._next + most]
        for index, send in enumerate(sends, self._next):
            try:
                sent = send(framed)
            except BlockingIOError:
                sent = 0
            except OSError:
                behind.append((self._members[index], None))
                continue
            if sent != size:
                behind.append((self._members[index], framed[sent:]))
        self._next += len(sends)
        return behind
