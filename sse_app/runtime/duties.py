"""`DUTIES`: the work that each server process does on rows of the database, when that is due.

A duty returns when it is due again, from the rows that it read. Until then it costs nothing: code
that changes such rows wakes the duties of all processes, see `publishing.waking`. A wake-up may be
lost, so each duty is also called after `NET_SECONDS`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from math import inf
from typing import Final

from .callables import contained
from .forks import at_fork
from .telemetry import log_fields

NET_SECONDS: Final = 60.0
#: The pauses for `NET_SECONDS` are up to so many times longer, so that the processes take turns.
SPREAD: Final = 1.2
#: After this pause a duty that failed is called again.
RETRY_SECONDS: Final = 1.0

#: Returns the seconds after which it is due again, None for `NET_SECONDS`.
Duty = Callable[[], float | None]

logger = logging.getLogger("sse_app")


class Duties:
    """The duties of this process, and when each is due. From any thread."""

    def __init__(self) -> None:
        #: Called without arguments when duties became due earlier.
        self.runner: Callable[[], None] = _nothing
        self._due: dict[Duty, float] = {}
        self.clear()

    def clear(self) -> None:
        """Make all duties due, as in a forked child, which has no runner."""
        self.runner = _nothing
        self._lock = threading.Lock()
        self._due = dict.fromkeys(self._due, 0.0)
        self._failing: set[Duty] = set()
        #: How often all duties were woken.
        self.wakes = 0

    def register(self, duty: Duty) -> None:
        """Call `duty` in each server process. Safe to call twice."""
        self._due.setdefault(duty, 0.0)

    @property
    def registered(self) -> list[Duty]:
        """The duties, in the order in which they are called."""
        return list(self._due)

    def wake(self) -> None:
        """Make all duties due now: rows have changed."""
        with self._lock:
            self.wakes += 1
            self._due = dict.fromkeys(self._due, 0.0)
        self.runner()

    def soon(self, duty: Duty, seconds: float) -> None:
        """Make `duty` due in `seconds`, or earlier if an earlier time is set."""
        at = time.monotonic() + seconds
        with self._lock:
            if self._due.get(duty, -inf) <= at:
                return
            self._due[duty] = at
        self.runner()

    def pause(self) -> float:
        """Return the seconds until the next duty is due."""
        with self._lock:
            return max(0.0, min(self._due.values(), default=inf) - time.monotonic())

    def run(self) -> None:
        """Call the duties that are due. Exceptions are logged, those of each duty once."""
        for duty in self.registered:
            with self._lock:
                if self._due[duty] > time.monotonic():
                    continue
                # A duty that is woken during its call must be called again.
                self._due[duty] = inf
            pause = self._call(duty)
            with self._lock:
                self._due[duty] = min(self._due[duty], time.monotonic() + pause)

    def _call(self, duty: Duty) -> float:
        try:
            with contained():
                seconds = duty()
        except Exception as error:
            if duty not in self._failing:
                self._failing.add(duty)
                name = getattr(duty, "__qualname__", repr(duty))
                logger.warning(
                    "%s failed, and is called again each second: %r",
                    name,
                    error,
                    exc_info=True,
                    extra=log_fields(reason=name, error=error),
                )
            return RETRY_SECONDS
        self._failing.discard(duty)
        net = NET_SECONDS * random.uniform(1.0, SPREAD)
        return net if seconds is None else min(net, seconds)


def _nothing() -> None:
    """Nobody calls the duties: the process serves no streams."""


DUTIES: Final = Duties()

at_fork(DUTIES.clear)
