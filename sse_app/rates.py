"""How fast somebody may speak: token buckets, per process and bounded in memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MOST_BUCKETS: Final = 10_000


class TokenBuckets:
    """A bucket of tokens for each name; a full one is as good as none and is forgotten.

    Safe to use from any thread. `clock` returns seconds and never goes back. Beyond `most`
    buckets the one longest untouched is forgotten, which is in its owner's favour.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, most: int = MOST_BUCKETS
    ) -> None:
        self._clock = clock
        self._most = most
        self._lock = threading.Lock()
        # Name to the tokens left and when that was, the longest untouched first.
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, *, rate: float, burst: float) -> float:
        """Take a token of `name` and return 0; or the seconds until there is one, taking none.

        A bucket holds at most `burst` tokens, one at least, and gets `rate` of them a second.
        """
        burst = max(burst, 1)
        with self._lock:
            now = self._clock()
            left = self._tokens(name, now, rate, burst)
            if left < 1:
                return (1 - left) / rate
            self._left[name] = (left - 1, now)
            self._left.move_to_end(name)
            self._forget_full(now, rate, burst)
        return 0.0

    def clear(self) -> None:
        """Forget every bucket."""
        with self._lock:
            self._left.clear()

    def __len__(self) -> int:
        return len(self._left)

    def _tokens(self, name: str, now: float, rate: float, burst: float) -> float:
        left, at = self._left.get(name, (burst, now))
        return min(burst, left + (now - at) * rate)

    def _forget_full(self, now: float, rate: float, burst: float) -> None:
        # A call adds one bucket at most, so two looks a call keep up with any number of names.
        for _ in range(2):
            oldest = next(iter(self._left))
            full = self._tokens(oldest, now, rate, burst) >= burst
            if not full and len(self._left) <= self._most:
                return
            del self._left[oldest]


speaking: Final = TokenBuckets()
