"""How fast somebody may speak: token buckets, per process and bounded in memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
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
        # Name to the tokens left, when that was and its share; the longest untouched first.
        self._left: OrderedDict[str, tuple[float, float, float]] = OrderedDict()

    def take(self, shares: Mapping[str, float], *, rate: float, burst: float) -> float:
        """Take a token of each name and return 0; if one has none, return the seconds until it has.

        A bucket holds at most `burst` tokens, one at least, and gets `rate` of them a second; that
        of a name in `shares` is so many times as large and as fast.
        """
        burst = max(burst, 1)
        with self._lock:
            now = self._clock()
            left = {
                name: self._tokens(name, now, rate, burst, share) for name, share in shares.items()
            }
            wait = max((1 - left[name]) / (rate * share) for name, share in shares.items())
            if wait > 0:
                return wait
            for name, share in shares.items():
                self._left[name] = (left[name] - 1, now, share)
                self._left.move_to_end(name)
            self._forget_full(2 * len(shares), now, rate, burst)
        return 0.0

    def clear(self) -> None:
        """Forget every bucket."""
        with self._lock:
            self._left.clear()

    def __len__(self) -> int:
        return len(self._left)

    def _tokens(self, name: str, now: float, rate: float, burst: float, share: float) -> float:
        left, at, _ = self._left.get(name, (burst * share, now, share))
        return min(burst * share, left + (now - at) * rate * share)

    def _forget_full(self, looks: int, now: float, rate: float, burst: float) -> None:
        # Two looks for each bucket that a call may add keep up with any number of names.
        for _ in range(looks):
            oldest, (_left, _at, share) = next(iter(self._left.items()))
            full = self._tokens(oldest, now, rate, burst, share) >= burst * share
            if not full and len(self._left) <= self._most:
                return
            del self._left[oldest]


speaking: Final = TokenBuckets()
