"""A client as a browser is one: it keeps the last id, loses its connection, and comes back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from django.test import RequestFactory

from sse_app.delivery.cohorts import join_cohort
from sse_app.delivery.hub import Hub, get_hub
from sse_app.delivery.replay import StartRequest, find_start
from sse_app.delivery.sinks import Sink
from sse_app.delivery.subscriptions import Subscription
from sse_app.delivery.transports.asgi import Direct
from sse_app.delivery.transports.chunked import frame
from sse_app.protocol.cursors import START, Cursor, Position
from sse_app.protocol.events import Event

from .ledger import Ledger, plain
from .parser import Parser


class PageSink(Sink):
    """Keeps what arrives; takes as much as it has room for. `groups` are those of event data."""

    subscription: Subscription

    def __init__(self, groups: Mapping[str, str]) -> None:
        self.items: list[tuple[Any, ...]] = []
        self._groups = groups
        self._chunk = b""
        self.room: int | None = None
        self._open = asyncio.Event()
        self._open.set()

    def lag(self, room: int) -> None:
        """Take `room` more items and then no more."""
        self.room = room
        if not room:
            self._open.clear()

    def recover(self) -> None:
        """Take everything again."""
        self.room = None
        self._open.set()

    @property
    def ready(self) -> bool:
        return self._open.is_set()

    async def drained(self) -> None:
        await self._open.wait()

    def show(self, event: Event, cursor: str, block: bytes) -> None:
        self._take("event", event, cursor)

    def reset(self, group: str, reason: str, cursor: str) -> None:
        self._take("reset", group, reason, cursor)

    def passed(self, cursor: str) -> None:
        self._take("passed", cursor)

    def direct(self) -> Direct | None:
        return self._send if self.room is None else None

    def joined_cohort(self, before: int) -> float:
        assert not self._chunk
        return inf

    def left_cohort(self, written: int, at: float, rest: bytes | None, pending: bytes) -> None:
        assert rest is not None
        self._read(rest)
        if pending:
            self._read(frame(pending))

    def _send(self, framed: bytes) -> int:
        if self.room is None:
            taken = len(framed)
        else:  # Lagging since it is in a cohort: somewhere within a block its buffer is full.
            taken = len(framed) // 2
            self.lag(0)
        self._read(framed[:taken])
        return taken

    def _read(self, framed: bytes) -> None:
        self._chunk += framed
        size, found, rest = self._chunk.partition(b"\r\n")
        if not found or len(rest) < int(size, 16) + 2:
            return
        assert rest[int(size, 16) :] == b"\r\n", "two writers at once"
        self._chunk = b""
        for block in rest[:-4].split(b"\n\n"):
            parser = Parser()
            parser.feed(block + b"\n\n")
            for parsed in parser.events:  # None for the heartbeat of a cohort.
                event = Event(group=self._groups[parsed.data], name=parsed.name, data=parsed.data)
                self.items.append(("event", event, parsed.id))

    def _take(self, *item: Any) -> None:
        self.subscription.leave_cohort()
        self.items.append(item)
        if self.room:
            self.lag(self.room - 1)


@dataclass(frozen=True)
class Sight:
    """What the page has after one more item: all of it is lost with what the network loses."""

    item: tuple[Any, ...] = ("new",)
    id: str | None = None
    #: Where the page stands in each group, by what it was shown; and how often the group had been
    #: forgotten when it was last told where it stands.
    positions: Mapping[str, Position] = field(default_factory=dict)
    told: Mapping[str, int] = field(default_factory=dict)
    #: The events it was shown.
    seen: frozenset[str] = frozenset()


class Browser:
    """One page with its stream; checks each thing that arrives against the ledger."""

    def __init__(self, ledger: Ledger, groups: Collection[str], names: Collection[str]) -> None:
        self.ledger = ledger
        self.groups = tuple(groups)
        self.names = frozenset(names)
        self.sights = [Sight()]
        self.sink: PageSink | None = None
        self._hub: Hub
        self._subscription: Subscription
        self._task: asyncio.Task[str]
        self._examined = 0
        self._opened = 0
        self._heard = 0

    def __repr__(self) -> str:
        return f"Browser({'+'.join(self.groups)}, {self.sights[-1]})"

    @property
    def now(self) -> Sight:
        """What the page has."""
        return self.sights[-1]

    @property
    def connected(self) -> bool:
        """Whether it has a stream."""
        return self.sink is not None

    @property
    def lags(self) -> bool:
        """Whether its stream can't take everything."""
        return self.sink is not None and self.sink.room is not None

    # --- the connection ---

    async def connect(self, id: str | None = None) -> None:
        """Open a stream as the consumer does, with the id that it kept unless another is given."""
        given = self.now.id if id is None else id
        self.sink = PageSink(self.ledger.group_of)
        self._examined, self._opened = 0, len(self.sights)
        self._heard = len(self.ledger.delivered)
        self._hub = get_hub()
        self._subscription = Subscription(self.sink, self.groups, self.names)
        self.sink.subscription = self._subscription
        await self._hub.join(self._subscription)
        headers = {} if given is None else {"Last-Event-ID": given}
        request = RequestFactory().get("/events/", headers=headers)
        start = await find_start(self._hub, self.groups, StartRequest.of(request))
        self._subscription.positions.update(start.positions)
        self._open(given, start.positions, start.first)
        for group, beginning in start.first.items():
            self._subscription.begin(group, beginning)
        self._task = asyncio.create_task(self._subscription.run(self._hub))

    async def drop(self, lost: int = 0) -> None:
        """End the stream; the last `lost` things that were written to it never arrived."""
        assert self.sink is not None
        self._subscription.leave_cohort()
        self._subscription.close("disconnect")
        self.sink.recover()  # As a broken transport does: nothing waits for it any more.
        self.sink = None
        assert await self._task == "disconnect"
        await self._hub.leave(self._subscription)
        del self.sights[max(self._opened, len(self.sights) - lost) :]

    async def join_cohort(self) -> None:
        """Be written to with the others again, if it is like them, as a stream's tick does."""
        if self._subscription.cohort is None:
            join_cohort(self._subscription, self._hub)

    async def review(self) -> None:
        """Be held while it is asked whether it still may read, and go on, as it may."""
        self._subscription.hold()
        await asyncio.sleep(0)
        self._subscription.release(self._subscription.held)

    def stands(self) -> dict[str, Position]:
        """Return where the subscription is, which a filter lets run ahead of what was shown."""
        positions = self._subscription.positions
        return {group: plain(position) for group, position in positions.items()}

    # --- what arrives ---

    def examine(self) -> None:
        """Check what arrived since the last time."""
        if self.sink is None:
            return
        assert not self._task.done(), f"the stream ended: {self._task}"
        for item in self.sink.items[self._examined :]:
            self._examined += 1
            if item[0] == "event" and not item[2]:
                self._passing(item[1])
            elif item[0] == "event":
                self._shown(item[1], item[2])
            elif item[0] == "reset":
                self._reset(*item[1:])
            else:
                self._move(item[1], item)

    def _open(self, given: str | None, start: dict[str, Position], resets: Collection[str]) -> None:
        """Take the first event of a stream, whose id is the place before the replay."""
        id, now = self._subscription.cursor, self.now
        start = {group: plain(place) for group, place in start.items()}
        if given is None:
            assert not resets
            assert all(self.ledger[group].knows(place) for group, place in start.items())
            told = {group: self.ledger[group].forgotten for group in self.groups}
            now = replace(now, positions=start, told=told)
        elif given == now.id:
            for group in self.groups:
                stays = start[group] == _place(id, group) == now.positions.get(group)
                assert stays or group in resets, "it does not begin where the page stands"
        else:
            assert set(resets) == set(self.groups), "an id that can't be read says nothing"
        self.sights.append(replace(now, item=("open",), id=id))

    def _passing(self, event: Event) -> None:
        assert event.data in self.ledger.passing, "it was never published"
        assert event.group in self.groups
        assert not self.names or event.name in self.names
        later = self.ledger.delivered[self._heard :]
        assert event.data in later, "it came out of order"
        self._heard += later.index(event.data) + 1
        self.sights.append(replace(self.now, item=("passing", event.data)))

    def _shown(self, event: Event, id: str) -> None:
        place = _place(id, event.group)
        assert place is not None
        known = self.ledger[event.group].epochs.get(place.epoch, [])
        assert place.offset <= len(known), "it was never committed"
        entry = known[place.offset - 1]
        assert (event.name, event.data) == (entry.name, entry.data), "another event stands there"
        assert not self.names or event.name in self.names
        assert event.data not in self.now.seen - self.ledger.again, "it came twice"
        self._move(id, ("event", event.group, event.data), shown=entry.data)

    def _move(self, id: str, item: tuple[Any, ...], shown: str | None = None) -> None:
        """Go on in the groups' logs, over nothing that the page wanted to see but `shown`."""
        now = self.now
        for group, before in now.positions.items():
            after = _place(id, group)
            assert after is not None, "the id does not mention a group"
            if after == before:
                continue
            ledger = self.ledger[group]
            assert before in (START, Position(after.epoch, before.offset)), "no reset came first"
            assert after.offset > before.offset, "it went backwards"
            if before == START:
                if after.epoch == ledger.epoch:
                    assert not self._saw_another_log_empty(now.id, group), "no reset came first"
                assert self._told(group, after), "the group was forgotten, and no reset came first"
            for entry in ledger.epochs[after.epoch][before.offset : after.offset]:
                wanted = not self.names or entry.name in self.names
                assert not wanted or entry.data == shown, f"{entry.data} was left out"
            assert self.names or shown is not None
        seen = now.seen if shown is None else now.seen | {shown}
        places = {group: _place(id, group) or START for group in now.positions}
        self.sights.append(replace(now, item=item, id=id, positions=places, seen=seen))

    def _told(self, group: str, after: Position) -> bool:
        ledger = self.ledger[group]
        return self.now.told[group] >= ledger.forgotten_before.get(after.epoch, ledger.forgotten)

    def _reset(self, group: str, reason: str, id: str) -> None:
        place, ledger = _place(id, group), self.ledger[group]
        assert place is not None
        assert ledger.knows(place)
        before = self.now.positions.get(group)
        if reason != "unknown" and before is not None:
            told = before != START or self._told(group, place)
            lost = not (told and ledger.continues(before))
            # Behind a filter the stream may stand where the page was shown nothing of.
            lost = lost or bool(self.names) or self._saw_empty_too_long_ago(group)
            for seen_id in (self.now.id, self.sights[self._opened - 1].id):
                lost = lost or self._saw_another_log_empty(seen_id, group)
            assert lost, "nothing was lost"
        seen = self.now.seen
        if place == START:
            # What was sent before the log was lost may still arrive: nothing at this place says
            # that it is of another log. It is told again, and then reset again.
            known = itertools.chain.from_iterable(ledger.epochs.values())
            seen -= {entry.data for entry in known}
        # Of the other groups it says nothing: one of them may have to be reset yet.
        self.sights.append(
            replace(
                self.now,
                item=("reset", group, reason),
                id=id,
                positions={**self.now.positions, group: place},
                told={**self.now.told, group: ledger.forgotten},
                seen=seen,
            )
        )

    def _saw_empty_too_long_ago(self, group: str) -> bool:
        """Whether a whole log may have come and gone since the page saw the group empty."""
        cursor = Cursor.parse(self.sights[self._opened - 1].id or "")
        seen = cursor.seen_empty_at(group) if cursor else None
        return seen is not None and seen < self.ledger.clock.now - self.ledger.age

    def _saw_another_log_empty(self, id: str | None, group: str) -> bool:
        """Whether the whole log vanished since a page with `id` saw the group empty."""
        cursor = Cursor.parse(id or "")
        position = cursor.get(group) if cursor else None
        return bool(position and position.is_start and not position.agrees(self.ledger.start))

    def has_come_to(self, event: Event) -> None:
        """Check that the stream does not stay behind `event`, if that is still in the log."""
        assert event.offset is not None
        ledger, stands = self.ledger[event.group], self.stands()[event.group]
        if event.epoch == ledger.epoch:
            assert stands.epoch == event.epoch, "it stayed behind"
            assert stands.offset >= event.offset, "it stayed behind"

    def arrived(self) -> None:
        """Check that the page has everything: it stands where the logs do."""
        stands = self.stands()
        for group in self.groups:
            ledger = self.ledger[group]
            assert stands[group] == ledger.head, f"{self!r} stands at {stands[group]} of {group}"
            shown = self.now.positions[group]
            assert shown.epoch == ledger.head.epoch or shown == START
            for entry in ledger.entries[shown.offset :]:
                wanted = not self.names or entry.name in self.names
                assert not wanted, f"{entry.data} never came"


def _read(id: str) -> Cursor:
    cursor = Cursor.parse(id)
    assert cursor is not None, f"the id {id!r} can't be read"
    return cursor


def _place(id: str, group: str) -> Position | None:
    position = _read(id).get(group)
    return None if position is None else plain(position)
