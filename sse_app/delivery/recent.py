"""`Recent`: a group's latest events in memory, within a budget that all groups of a hub share.

A stream that is a little behind then needs no read of the log.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from ..protocol.cursors import Position, marks_agree
from ..protocol.events import Event

RECENT_EVENTS: Final = 256
RECENT_BYTES: Final = 1024 * 1024
#: Of all groups of a hub together.
BUDGET_BYTES: Final = 64 * 1024 * 1024
#: What an event costs besides its data and its block: the object, its attributes, its marks.
EVENT_BYTES: Final = 450


class Budget:
    """The memory of all groups of a hub; beyond it, the group used least recently forgets all."""

    def __init__(self) -> None:
        self.bytes = 0
        self._used: OrderedDict[Recent, None] = OrderedDict()

    def use(self, recent: Recent, size: int) -> None:
        """Note that `recent` was used, and has `size` bytes more."""
        self.bytes += size
        self._used[recent] = None
        self._used.move_to_end(recent)
        while self.bytes > BUDGET_BYTES:
            next(iter(self._used)).clear()

    def release(self, recent: Recent, size: int) -> None:
        """Note that `recent` has no events any more; they had `size` bytes."""
        self.bytes -= size
        self._used.pop(recent, None)


class Recent:
    """The latest events of one group, contiguous, of one epoch."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._events: deque[Event] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._events)

    @property
    def first(self) -> Event | None:
        """The earliest event that is kept."""
        return self._events[0] if self._events else None

    def append(self, event: Event) -> None:
        """Keep the next event; the earliest ones go."""
        before = self._bytes
        self._events.append(event)
        self._bytes += cost(event)
        while self._bytes > RECENT_BYTES or len(self._events) > RECENT_EVENTS:
            self._bytes -= cost(self._events.popleft())
        self._budget.use(self, self._bytes - before)

    def prepend(self, events: Sequence[Event]) -> None:
        """Keep the last ones of `events`, which come directly before the kept events."""
        before = self._bytes
        for event in reversed(events):
            size = cost(event)
            if len(self._events) >= RECENT_EVENTS or self._bytes + size > RECENT_BYTES:
                break
            self._events.appendleft(event)
            self._bytes += size
        self._budget.use(self, self._bytes - before)

    def clear(self) -> None:
        """Keep nothing."""
        self._events.clear()
        self._budget.release(self, self._bytes)
        self._bytes = 0

    def after(self, position: Position, limit: int) -> list[Event] | None:
        """Return up to `limit` events after `position`; None if they are not all kept.

        Also None if another event is kept at `position`: the log then says what that means.
        """
        at = self._index(position) + 1
        if not 0 <= at < len(self._events):
            return None
        if not marks_agree(position.mark, self._events[at].previous):
            return None
        self._budget.use(self, 0)
        return list(islice(self._events, at, at + limit))

    def contradicts(self, position: Position) -> bool:
        """Return whether another event is kept at `position`."""
        at = self._index(position)
        known = 0 <= at < len(self._events)
        return known and not marks_agree(self._events[at].mark, position.mark)

    def _index(self, position: Position) -> int:
        """Return the index of the event at `position`; below -1 if that can't be told."""
        first = self.first
        if first is None or first.offset is None or first.epoch != position.epoch:
            return -2
        return position.offset - first.offset


def cost(event: Event) -> int:
    """Return how many bytes an event in memory takes."""
    return EVENT_BYTES + sys.getsizeof(event.data) + len(event.block)
