"""Where a stream starts: from what the client last saw, from history it asks for, or from now."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from django.http import HttpRequest

from .conf import settings
from .cursors import Cursor, Position
from .eventlog import Discontinuity, event_log
from .eventlog.contract import Reason
from .hub import Hub

_LAST: Final = re.compile(r"-([1-9][0-9]{0,8})\Z", re.ASCII)


@dataclass(frozen=True)
class Start:
    """Positions to begin at, and for each group whose history can't be given, why and from where.

    `recovered`: the client had a cursor and all of it holds. `missed`: events to be replayed.
    """

    positions: dict[str, Position]
    resets: dict[str, tuple[Reason, Position]] = field(default_factory=dict)
    recovered: bool = False
    missed: int = 0


async def find_start(hub: Hub, groups: Collection[str], request: HttpRequest) -> Start:
    """Return where a stream of the joined `groups` starts.

    The cursor is the header `Last-Event-ID`, else the parameter `last_event_id`, else
    `lastEventId`. A group that it does not mention starts from now. Without a cursor,
    `from=earliest` and `from=-20` begin that far back.
    """
    now = {group: hub.position(group) for group in groups}
    given = _given(request)
    if given is None:
        return await _from_history(now, request.GET.get("from", ""))
    cursor = Cursor.parse(given)
    if cursor is None:
        return Start(now, {group: ("unknown", head) for group, head in now.items()})
    return await _from_cursor(hub, now, cursor)


def _given(request: HttpRequest) -> str | None:
    header = request.headers.get("Last-Event-ID")
    return header or request.GET.get("last_event_id") or request.GET.get("lastEventId")


async def _from_cursor(hub: Hub, now: dict[str, Position], cursor: Cursor) -> Start:
    positions, missed = dict(now), 0
    resets: dict[str, tuple[Reason, Position]] = {}
    known = {group: place for group in now if (place := cursor.get(group)) is not None}
    for group, place in known.items():
        positions[group] = place
        try:
            missed += await _count(hub, group, place)
        except Discontinuity as lost:
            resets[group] = lost.reason, hub.position(group)
    return Start(positions, resets, recovered=not resets and bool(known), missed=missed)


async def _count(hub: Hub, group: str, place: Position) -> int:
    """Return how many events there are after `place`; raises `Discontinuity` as the log does."""
    head = hub.position(group)
    if place == head:
        return 0
    # The page stays with the hub, for this stream's replay and for whoever comes back with it.
    events = await hub.read(group, place)
    count = max(head.offset - place.offset, len(events))
    most = settings().REPLAY_EVENTS
    if most is not None and count > most:
        raise Discontinuity("limit", head)
    return count


async def _from_history(now: dict[str, Position], wanted: str) -> Start:
    last = _LAST.match(wanted)
    if wanted != "earliest" and last is None:
        return Start(now)
    positions, missed = {}, 0
    for group, head in now.items():
        first = await event_log().aearliest(group)
        offset = first.offset if last is None else max(first.offset, head.offset - int(last[1]))
        if first.epoch == head.epoch and offset <= head.offset:
            positions[group] = Position(head.epoch, offset)
            missed += head.offset - offset
        else:  # The log began anew since the topic was served; it is about to be told.
            positions[group] = head
    return Start(positions, missed=missed)
