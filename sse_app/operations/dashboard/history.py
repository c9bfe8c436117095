"""The last events of a group's log, for a page of the admin."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ...conf import stored_time
from ...eventlog import Discontinuity, event_log
from ...protocol.cursors import Position
from ...protocol.events import Event

MOST_EVENTS: Final = 50
#: Characters of an event's data that are shown before it is unfolded.
SHORT: Final = 120


@dataclass(frozen=True)
class Line:
    """One event; `at` is the time of its publication, None if the log does not keep times."""

    event: Event
    at: datetime | None

    @property
    def short(self) -> str:
        """The beginning of the event's data in one line."""
        text = " ".join(self.event.data[: SHORT + 1].split())
        return f"{text[:SHORT]}…" if len(self.event.data) > SHORT else text

    @property
    def whole(self) -> str:
        """The event's data; JSON is indented."""
        try:
            return json.dumps(self.event.json(), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            return self.event.data


@dataclass(frozen=True)
class History:
    """The head of a group's log, the offset of its first event, and its last events."""

    group: str
    head: Position
    first: int
    lines: list[Line]

    @property
    def kept(self) -> int:
        """The number of events in the log."""
        return max(0, self.head.offset - self.first + 1)


def read(group: str) -> History:
    """Return the latest events of `group`, the last one first. Blocks; raises the log's errors."""
    log = event_log()
    head, earliest = range_of(group)
    after = Position(head.epoch, max(earliest.offset, head.offset - MOST_EVENTS))
    try:
        events = log.since(group, after, MOST_EVENTS)
    except Discontinuity:
        events = []  # Pruned a moment ago.
    times = log.times(group, after.offset, MOST_EVENTS)
    lines = [Line(event, _moment(times.get(event.offset or 0))) for event in reversed(events)]
    return History(group, head, earliest.offset + 1, lines)


def range_of(group: str) -> tuple[Position, Position]:
    """Return the head of `group` and the position before the first event in its log."""
    log = event_log()
    earliest = log.earliest(group)
    return log.heads([group])[group], earliest


def find(group: str, offset: int) -> Event | None:
    """Return the event at `offset` of the current epoch; None if the log does not have it."""
    log = event_log()
    head = log.heads([group])[group]
    try:
        found = log.since(group, Position(head.epoch, offset - 1), 1)
    except Discontinuity:
        return None
    return found[0] if found else None


def _moment(at: float | None) -> datetime | None:
    return None if at is None else stored_time(at)
