"""Limits the rate of requests of one user: `SPEAK_RATE` and `SPEAK_BURST`, per process."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from django.http import HttpRequest

from ..access.addresses import SITE_SHARE, address_of
from ..access.grants import user_key
from ..access.refusals import Refused
from ..conf import settings
from ..runtime.forks import at_fork

MOST_BUCKETS: Final = 10_000


class TokenBuckets:
    """A bucket of tokens for each name. Full buckets are deleted: a new bucket is full.

    Safe to use from any thread. `clock` returns seconds and never goes back. Beyond `most` buckets
    the least recently used one is deleted, which only permits its owner more.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, most: int = MOST_BUCKETS
    ) -> None:
        self._clock = clock
        self._most = most
        self.clear()

    def take(self, shares: Mapping[str, float], *, rate: float, burst: float) -> float:
        """Take a token of each name and return 0; if a bucket is empty, return the seconds to wait.

        A bucket has at most `burst` tokens, but at least 1, and gets `rate` tokens a second. The
        share of a name multiplies both.
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
        """Delete all buckets, as in a forked child."""
        self._lock = threading.Lock()
        # Name to the tokens left, the time of that count and the share; least recently used first.
        self._left: OrderedDict[str, tuple[float, float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def _tokens(self, name: str, now: float, rate: float, burst: float, share: float) -> float:
        left, at, _ = self._left.get(name, (burst * share, now, share))
        return min(burst * share, left + (now - at) * rate * share)

    def _forget_full(self, looks: int, now: float, rate: float, burst: float) -> None:
        # Each call checks two buckets for each one it may add, so full buckets never accumulate.
        for _ in range(looks):
            oldest, (_left, _at, share) = next(iter(self._left.items()))
            full = self._tokens(oldest, now, rate, burst, share) >= burst * share
            if not full and len(self._left) <= self._most:
                return
            del self._left[oldest]


speaker_buckets: Final = TokenBuckets()
at_fork(speaker_buckets.clear)


def limit_rate(request: HttpRequest) -> None:
    """Raise `Refused` 429 with `Retry-After` for a user above the rate.

    Call it before the body is read, since refused requests cost as much as others.
    """
    wait = speaker_buckets.take(
        _shares(request), rate=settings().SPEAK_RATE, burst=settings().SPEAK_BURST
    )
    if wait > 0:
        raise Refused(
            429,
            f"Too fast: {settings().SPEAK_RATE:g} messages per second are permitted, and bursts of "
            f"{settings().SPEAK_BURST:g}.",
            {"Retry-After": str(math.ceil(wait))},
        )


def _shares(request: HttpRequest) -> dict[str, int]:
    """Return the buckets of a request, each with its multiple of one user's rate."""
    if request.user.is_authenticated:
        return {f"user {user_key(request.user)}": 1}
    addresses = address_of(request).shares
    session = getattr(request, "session", None)
    # A forged session key has no data, and must not get a bucket of its own.
    if session is None or not session.session_key or not list(session.keys()):
        return {f"address {key}": share for key, share in addresses.items()}
    # A client that deletes its cookie gets another session, but keeps its address.
    sessions = {f"sessions at {key}": share * SITE_SHARE for key, share in addresses.items()}
    return {f"session {session.session_key}": 1, **sessions}
