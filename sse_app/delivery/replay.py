"""Where a stream starts, and how a reader begins in a group.

A stream starts from the client's cursor, from the history that the client asks for, or from now. A
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
from ..eventlog.retention import retained_count, retention_seconds
from ..protocol.cursors import LOST, Cursor, Position
from ..protocol.events import Event
from ..protocol.headers import last_event_id
from .feed import Feed
from .snapshots import source_of


class Beginning(NamedTuple):
    """What a reader is shown first of a group.

    With a `reason`: a reset, after which the reader continues from `head`, as earlier events are
    lost. With `events`: these events, which follow `head` in the log. With neither: the group's
    state.
    """

    head: Position
    reason: Reason | None = None
    events: Sequence[Event] = ()


#: The head is not known yet: the reader continues from the position of the state that is read.
STATE: Final = Beginning(LOST)


#: How often past events are read, if each time the log trims them before the read.
TRIES: Final = 3


async def first_of(feed: Feed, group: str, head: Position) -> Beginning:
    """Return how a reader begins that is new in `group`, or was reset there to `head`.

    With the group's state, else with past events by `RETAIN`, else with the events after `head`.
    """
    if source_of(group) is not None:
        return STATE
    count = retained_count(group)
    return await past(feed, group, head, count) if count else Beginning(head)


async def past(feed: Feed, group: str, head: Position, last: float) -> Beginning:
    """Return the position before the `last` events up to `head`, and a page of these events.

    If `last` is infinity, these are all events that are left. The page is read here and kept for
    the reader, because the log may trim the events before the reader shows them.
    """
    for _ in range(TRIES):
        first = await feed.earliest(group)
        offset = int(max(first.offset, head.offset - last))
        if first.epoch != head.epoch or offset >= head.offset:
            # No events are left, or the log has a new epoch and the reader will get a reset.
            break
        try:
            events = await feed.read(group, Position(head.epoch, offset))
        except Discontinuity:
            continue
        if not events:
            break  # The log went back.
        # With the mark, because a client may come back before it has read an event.
        return Beginning(Position(head.epoch, offset, events[0].previous), events=events)
    return Beginning(head)


_LAST: Final = re.compile(r"-([1-9][0-9]{0,8})\Z", re.ASCII)


@dataclass(frozen=True)
class Start:
    """The first positions of a reader, and the groups that begin with a reset, state or events.

    `recovered`: the client had a cursor, and no group was reset. `missed`: the number of events
    to replay.
    """

    positions: dict[str, Position]
    first: dict[str, Beginning] = field(default_factory=dict)
    recovered: bool = False
    missed: int = 0


@dataclass(frozen=True)
class StartRequest:
    """From where a reader asks to start: after `cursor`, else with a `history`, else from now.

    `cursor` is the text that the client sent, valid or not. `history`: how many past events of each
    group, infinity for all. `first`: whether a reader without both begins with the state or events
    of `@snapshot` and `RETAIN`.
    """

    cursor: str | None = None
    history: float | None = None
    first: bool = False

    @classmethod
    def of(cls, request: HttpRequest) -> Self:
        """Return what an HTTP request asks for.

        The cursor is the header `Last-Event-ID`, else the parameter `last_event_id`, else
        `lastEventId`; an empty one counts as missing. The history is the parameter `from`, at most
        `REPLAY_EVENTS`; an invalid `from` becomes an invalid cursor.
        """
        cursor = last_event_id(request) or None
        if cursor is not None or "from" not in request.GET:
            return cls(cursor, first=True)
        history = _history(request.GET.getlist("from"))
        return cls("" if history is None else None, history, first=True)


def _history(given: Collection[str]) -> float | None:
    """Return how many past events the parameters `from` ask for; None if they are invalid."""
    text = ",".join(given)  # Several parameters are invalid.
    match = _LAST.match(text)
    if match is None and text != "earliest":
        return None
    most = settings().REPLAY_EVENTS
    return min(inf if match is None else int(match[1]), inf if most is None else most)


async def find_start(feed: Feed, groups: Collection[str], request: StartRequest) -> Start:
    """Return where a reader of the joined `groups` starts.

    In a group that the cursor does not mention the reader starts from now, see also `first_of()`.
    """
    now = {group: feed.position(group) for group in groups}
    if request.cursor is None:
        if request.history is not None:
            return await _from_history(feed, now, request.history)
        return await _from_first(feed, Start(now), groups if request.first else ())
    cursor = Cursor.parse(request.cursor)
    if cursor is None:
        resets = {group: Beginning(head, "unknown") for group, head in now.items()}
        return Start(dict.fromkeys(now, LOST), resets)
    start = await _from_cursor(feed, now, cursor)
    new = [group for group in now if cursor.get(group) is None]
    return await _from_first(feed, start, new if request.first else ())


async def _from_cursor(feed: Feed, now: dict[str, Position], cursor: Cursor) -> Start:
    positions, missed = dict(now), 0
    resets: dict[str, Beginning] = {}
    known = {group: position for group in now if (position := cursor.get(group)) is not None}
    for group, position in known.items():
        positions[group] = position
        try:
            _refuse_if_forgotten(cursor, group, now[group])
            missed += await _count(feed, group, position)
        except Discontinuity as lost:
            positions[group] = LOST
            resets[group] = Beginning(feed.position(group), lost.reason)
    return Start(positions, resets, recovered=not resets and bool(known), missed=missed)


def _refuse_if_forgotten(cursor: Cursor, group: str, head: Position) -> None:
    """Raise `Discontinuity` if the cursor saw `group` empty so long ago that its head may be gone.

    A whole log of the group may have been written and trimmed since.
    """
    seen = cursor.seen_empty_at(group)
    if seen is None:
        return
    if seen == LOST.offset or time.time() - seen > retention_seconds():
        raise Discontinuity("trimmed", head)


async def _count(feed: Feed, group: str, position: Position) -> int:
    """Return how many events follow `position`; raises `Discontinuity` as the log does."""
    head = feed.position(group)
    if position.agrees(head):
        return 0
    # The feed keeps the page for the replay of this stream and of others with the same cursor.
    events = await feed.read(group, position)
    count = max(head.offset - position.offset, len(events))
    most = settings().REPLAY_EVENTS
    if most is not None and count > most:
        raise Discontinuity("limit", head)
    return count


async def _from_history(feed: Feed, now: dict[str, Position], last: float) -> Start:
    return _begin_at(Start(now), {g: await past(feed, g, head, last) for g, head in now.items()})


async def _from_first(feed: Feed, start: Start, new: Collection[str]) -> Start:
    """Return `start` where the `new` groups begin with their states or past events."""
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
