"""`Timers`: when each stream and each cohort has something to do, so that only those are visited.

A timer has the latest time for a visit. A stream that gets an event before that time does not
change its timer: when the timer fires, `tick()` does nothing and returns a later time. So an event
costs nothing here, and the cost of a second depends on the timers that fire, not on the open
streams.
"""

from __future__ import annotations

import logging
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf, nextafter
from typing import Final, Protocol

from ..runtime.telemetry import log_fields

#: The heap may have so many more cancelled entries than others before it is made again.
CANCELLED: Final = 64

#: The time, by the monotonic clock, and a number that no other entry has.
Timer = tuple[float, int]

logger = logging.getLogger("sse_app")


class Timed(Protocol):
    """A stream or a cohort, which has something to do at certain times."""

    #: None, until `Timers` sets it.
    timer: Timer | None

    def tick(self, now: float) -> float:
        """Do what is due at `now`, by the monotonic clock; return when to call `tick()` again.

        For a time that is not after `now`, the next tick; for `math.inf`, never.
        """


class Timers:
    """A heap of times. Used on one loop only."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        #: By the number. A timer that is missing here is cancelled; its entry refers to no stream.
        self._timed: dict[int, Timed] = {}
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._timed)

    def at(self, when: float, timed: Timed) -> None:
        """Call `timed.tick()` at `when`, or earlier if an earlier time is set."""
        if timed.timer is not None:
            if timed.timer[0] <= when:
                return
            self.cancel(timed)
        if when < inf:
            timer = timed.timer = when, next(self._numbers)
            self._timed[timer[1]] = timed
            heappush(self._heap, timer)

    def cancel(self, timed: Timed) -> None:
        """Do not call `timed.tick()`, until `at()`."""
        if timed.timer is not None:
            del self._timed[timed.timer[1]]
            timed.timer = None

    def hurry(self) -> None:
        """Make all timers due: the system's clock was set, so times by that clock have changed."""
        for timed in list(self._timed.values()):
            self.at(-inf, timed)

    def run(self, now: float, most: int) -> bool:
        """Call `tick()` of at most `most` that are due at `now`; return whether more may be due."""
        self._forget_cancelled()
        later = nextafter(now, inf)
        for _ in range(most):
            if not self._heap or self._heap[0][0] > now:
                return False
            timed = self._timed.pop(heappop(self._heap)[1], None)
            if timed is not None:
                timed.timer = None
                self.at(max(later, _tick(timed, now)), timed)
        return True

    def _forget_cancelled(self) -> None:
        if len(self._heap) > 2 * len(self._timed) + CANCELLED:
            self._heap = [timer for timer in self._heap if timer[1] in self._timed]
            heapify(self._heap)


def _tick(timed: Timed, now: float) -> float:
    try:
        return timed.tick(now)
    except Exception:
        logger.exception(
            "A stream's tick failed; other streams are not affected.", extra=log_fields()
        )
        return now
