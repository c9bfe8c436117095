"""Where a stream starts, and how a reader begins in a group.

A stream starts from what the client last saw, from the history that it asks for, or from now. A
reader that is new in a group, or was reset there, begins with a state, with past events, or now.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final, NamedTuple, Self

from django.http import HttpRequest

from ..conf import settings
from ..eventlog.contract import Discontinuity, Reason
from ..eventlog.retention import retained_count
from ..protocol.cursors import LOST, START, Cursor, Position
from ..protocol.events import Event
from ..protocol.headers import last_event_id
from .feed import Feed
from .snapshots import source_of


class Beginning(NamedTuple):
    """What a reader is to be shown of a group before its events.

    With a `reason`, a reset: earlier events are lost, and the reader continues from `head`.
    With `events`, these, which follow `head` in the log. With neither, the group's state.
    """

    head: Position
    reason: Reason | None = None
    events: Sequence[Event] = ()


#: The position from which the reader continues is known when the state has been read.
STATE: Final = Beginning(LOST)


#: How often past events are looked for, if each time they are trimmed before they are read.
TRIES: Final = 3


async def first_of(feed: Feed, group: str, head: Position) -> Beginning:
    """Return how a reader begins that is new in `group`, or was reset there to `head`.

    That is its state, else what `RETAIN` gives, else what comes after `head`.
    """
    if source_of(group) is not None:
        return STATE
    count = retained_count(group)
    return await past(feed, group, head, count) if count else Beginning(head)


async def past(feed: Feed, group: str, head: Position, last: float) -> Beginning:
    """Return the place before the `last` events up to `head`, and the first events after it.

    If `last` is infinity, that is all events that are left. The events are read here and kept for
    the reader, because the log may trim them before the reader comes to them.
    """
    for _ in range(TRIES):
        first = await feed.earliest(group)
        offset = int(max(first.offset, head.offset - last))
        if first.epoch != head.epoch or offset >= head.offset:
            # No events are left, or the log has a new epoch and the reader will get a reset.
            break
        place = Position(head.epoch, offset)
        try:
            return Beginning(place, events=await feed.read(group, place))
        except Discontinuity:
            continue
    return Beginning(head)


_LAST: Final = re.compile(r"-([1-9][0-9]{0,8})\Z", re.ASCII)


@dataclass(frozen=True)
class Start:
    """Positions to begin at, and what is to be shown of groups first: a reset, or a state.

    `recovered`: the client had a cursor and all of it holds. `missed`: events to be replayed.
    """

    positions: dict[str, Position]
    first: dict[str, Beginning] = field(default_factory=dict)
    recovered: bool = False
    missed: int = 0


@dataclass(frozen=True)
class Wanted:
    """What a reader asks for: what follows `cursor`, else some `history`, else what comes now.

    `cursor` is as it came, valid or not. `history`: how many past events of each group, infinity
    for all. `first`: where neither says where to begin, what `@snapshot` and `RETAIN` give comes
    first.
    """

    cursor: str | None = None
    history: float | None = None
    first: bool = False

    @classmethod
    def by(cls, request: HttpRequest) -> Self:
        """Return what a request asks for.

        The cursor is the header `Last-Event-ID`, else the parameter `last_event_id`, else
        `lastEventId`; an empty one counts as missing. The history is the parameter `from`, of which
        `REPLAY_EVENTS` limits the length; an invalid one is answered as an invalid cursor is.
        """
        cursor = last_event_id(request) or None
        if cursor is not None or "from" not in request.GET:
            return cls(cursor, first=True)
        history = _history(request.GET.getlist("from"))
        return cls("" if history is None else None, history, first=True)


def _history(given: Collection[str]) -> float | None:
    """Return how many past events the parameters `from` ask for; None if they can't be read."""
    text = ",".join(given)  # Several parameters can't be read as one.
    match = _LAST.match(text)
    if match is None and text != "earliest":
        return None
    most = settings().REPLAY_EVENTS
    return min(inf if match is None else int(match[1]), inf if most is None else most)


async def find_start(feed: Feed, groups: Collection[str], wanted: Wanted) -> Start:
    """Return where a reader of the joined `groups` starts.

    A group that the cursor does not mention starts from now, or from what comes first there.
    """
    now = {group: feed.position(group) for group in groups}
    # Before anybody is told that a group is empty, too: the log begins with the first who asks.
    began = await feed.began() if START in now.values() else 0.0
    if wanted.cursor is None:
        if wanted.history is not None:
            return await _from_history(feed, now, wanted.history)
        return await _from_first(feed, Start(now), groups if wanted.first else ())
    cursor = Cursor.parse(wanted.cursor)
    if cursor is None:
        resets = {group: Beginning(head, "unknown") for group, head in now.items()}
        return Start(dict.fromkeys(now, LOST), resets)
    if any(cursor.seen_empty_at(group) is not None for group in now):
        began = began or await feed.began()
    start = await _from_cursor(feed, now, cursor, began)
    new = [group for group in now if cursor.get(group) is None]
    return await _from_first(feed, start, new if wanted.first else ())


async def _from_cursor(feed: Feed, now: dict[str, Position], cursor: Cursor, began: float) -> Start:
    positions, missed = dict(now), 0
    resets: dict[str, Beginning] = {}
    known = {group: place for group in now if (place := cursor.get(group)) is not None}
    for group, place in known.items():
        positions[group] = place
        try:
            _refuse_if_forgotten(cursor, group, now[group], began)
            missed += await _count(feed, group, place)
        except Discontinuity as lost:
            positions[group] = LOST
            resets[group] = Beginning(feed.position(group), lost.reason)
    return Start(positions, resets, recovered=not resets and bool(known), missed=missed)


def _refuse_if_forgotten(cursor: Cursor, group: str, head: Position, began: float) -> None:
    """Refuse what was seen empty so long ago that all of a log may have come and gone since."""
    seen = cursor.seen_empty_at(group)
    if seen is None:
        return
    if seen == LOST.offset or time.time() - seen > settings().RETENTION_SECONDS:
        raise Discontinuity("trimmed", head)
    if seen < int(began):
        raise Discontinuity("epoch", head)


async def _count(feed: Feed, group: str, place: Position) -> int:
    """Return how many events there are after `place`; raises `Discontinuity` as the log does."""
    head = feed.position(group)
    if place == head:
        return 0
    # The page stays with the feed, for this stream's replay and for whoever comes back with it.
    events = await feed.read(group, place)
    count = max(head.offset - place.offset, len(events))
    most = settings().REPLAY_EVENTS
    if most is not None and count > most:
        raise Discontinuity("limit", head)
    return count


async def _from_history(feed: Feed, now: dict[str, Position], last: float) -> Start:
    return _begin_at(Start(now), {g: await past(feed, g, head, last) for g, head in now.items()})


async def _from_first(feed: Feed, start: Start, new: Collection[str]) -> Start:
    """Return `start` with what the `new` groups are given first: their states, or last events."""
    return _begin_at(
        start, {group: await first_of(feed, group, start.positions[group]) for group in new}
    )


def _begin_at(start: Start, beginnings: Mapping[str, Beginning]) -> Start:
    positions, first, missed = dict(start.positions), dict(start.first), start.missed
    for group, beginning in beginnings.items():
        head, positions[group] = positions[group], beginning.head
        if beginning == STATE or beginning.events:
            first[group] = beginning
        if beginning != STATE:
            missed += head.offset - beginning.head.offset
    return replace(start, positions=positions, first=first, missed=missed)
