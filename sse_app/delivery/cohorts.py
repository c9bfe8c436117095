"""`Cohort`: live streams of one kind on plain Daphne connections, written to as one.

Thousands of streams mostly get the same bytes at the same moment. Going through each one's objects
costs more than the system's `send`, as they have left the processor's caches by then: so the
members share their positions and what waits for them, framed once, and each costs one `send`.
Whoever is not quite like the others leaves and is served alone, until it is like them again: who
did not take all, who is held or closed, who writes something of its own.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from typing import Final, Protocol

from ..protocol.cursors import Position, encode_cursor
from ..protocol.events import Event
from ..runtime.telemetry import COUNTS
from .sinks import Sink
from .topics import Kind, Listener, Topic
from .transports.asgi import Direct
from .transports.chunked import FLUSH_BYTES, FLUSH_STREAMS, frame

#: For fewer readers it does not pay.
LEAST_MEMBERS: Final = 8


class Member(Listener, Protocol):
    """A reader that a cohort may write for. The cohort sets `cohort`, `index` and `positions`."""

    #: The reader's groups, and whether each event is labelled with its group.
    kind: Kind
    #: The names of the events that are shown; empty means all.
    names: frozenset[str]
    sink: Sink
    positions: dict[str, Position]
    live: bool
    held: int
    close_reason: str | None
    cohort: Cohort | None
    #: The index among the cohort's members.
    index: int


def join_cohort(subscription: Member, topics: Mapping[str, Topic]) -> None:
    """Take `subscription` into the cohort of its groups if it can be written to as the others."""
    if subscription.cohort is not None or not subscription.live or subscription.names:
        return
    kind = subscription.kind
    own = [topics[group] for group in kind[0]]
    cohort = own[0].cohorts.get(kind)
    if cohort is None and min(topic.readers for topic in own) < LEAST_MEMBERS:
        return
    send = subscription.sink.direct()
    if send is None:
        return
    if not isinstance(cohort, Cohort):
        cohort = Cohort(kind, own)
    cohort.join(subscription, send)


class Cohort:
    """Used on its loop only, but for `suspect()`. It lives while it has members.

    What is offered within one turn of the loop leaves at its end, in slices, so that thousands of
    members delay nothing else for long.
    """

    def __init__(self, kind: Kind, topics: list[Topic]) -> None:
        #: Where its members stand, one dict for all: the topics' own positions.
        self.positions: dict[str, Position] = {}
        for group, topic in zip(kind[0], topics, strict=True):
            assert topic.position is not None, f"{group} has live readers"
            self.positions[group] = topic.position
            topic.cohorts[kind] = self
        self.written_at = time.monotonic()
        #: The bytes that a member was sent who was there from the beginning.
        self.bytes = 0
        self._kind = kind
        self._topics = topics
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
        """Take in a live subscription, for which `send` writes to its socket."""
        self.flush()
        for topic in self._topics:
            topic.subscriptions.discard(subscription)
        subscription.cohort, subscription.index = self, len(self._members)
        subscription.positions = self.positions
        self._members.append(subscription)
        self._sends.append(send)
        subscription.sink.joined_cohort(self.bytes)
        # Another thread may have held or cut it before it could see that it has a cohort.
        if subscription.held or subscription.close_reason is not None:
            self.suspect(subscription)

    def suspect(self, subscription: Member) -> None:
        """Offer nothing more to a member, who leaves before. From any thread."""
        self._suspects.add(subscription)

    def drop_suspects(self) -> None:
        """Let go who was doubted."""
        while self._suspects:
            self.leave(self._suspects.pop())

    def leave(self, subscription: Member) -> None:
        """Serve a member alone from now on; what it was offered until now it gets first."""
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
        """Take the next event of a topic, once settled; return how many members get it."""
        id = ""
        if position is not None:
            self.positions[event.group] = position
            id = encode_cursor(self.positions, time.time())
        block = event.encode(id, labelled=self._kind[1])
        self._pending.append(block)
        self._size += len(block)
        members = len(self._members)
        if self._size > FLUSH_BYTES:
            self.flush()
        elif not self._scheduled:
            self._schedule()
        return members

    def flush(self) -> None:
        """Send all that waits, at once."""
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
        """Send what waits to the next `most` members."""
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
        """Take a member out; `rest` is what it did not take, None if its connection is broken."""
        last, send = self._members.pop(), self._sends.pop()
        if last is not subscription:
            self._members[subscription.index], self._sends[subscription.index] = last, send
            last.index = subscription.index
        for topic in self._topics:
            topic.subscriptions.add(subscription)
            if not self._members:
                topic.cohorts.pop(self._kind, None)
        self._suspects.discard(subscription)
        subscription.cohort = None
        subscription.positions = dict(self.positions)
        subscription.sink.left_cohort(self.bytes, self.written_at, rest, b"".join(self._pending))


class _Round:
    """One chunk on its way to those who were members when it set out."""

    def __init__(self, chunk: bytes, members: list[Member], sends: list[Direct]) -> None:
        self._framed = frame(chunk)
        self._members = members.copy()
        self._sends = sends.copy()
        self._at = 0
        COUNTS.bytes += len(chunk) * len(members)

    @property
    def done(self) -> bool:
        """Whether everybody had its turn."""
        return self._at >= len(self._sends)

    def send_next(self, most: int) -> list[tuple[Member, bytes | None]]:
        """Send to the next `most`; return who did not take all, and the rest as for `_remove()`."""
        framed, size = self._framed, len(self._framed)
        behind: list[tuple[Member, bytes | None]] = []
        sends = self._sends[self._at : self._at + most]
        for index, send in enumerate(sends, self._at):
            try:
                sent = send(framed)
            except BlockingIOError:
                sent = 0
            except OSError:
                behind.append((self._members[index], None))
                continue
            if sent != size:
                behind.append((self._members[index], framed[sent:]))
        self._at += len(sends)
        return behind
