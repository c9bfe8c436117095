"""Limits the number of open streams per user, session, address and process.

Streams are counted in this process and, with Redis, over all live processes (`limits_redis`). A
request takes its slots before any database work, and releases them when its stream ends.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self

from ..conf import namespace, settings
from ..protocol.groups import scoped
from ..runtime.forks import at_fork
from .addresses import Address
from .limits_redis import SharedCounts, shared_counts
from .sessions import session_digest

Reason = Literal["process", "address", "session", "user"]


class LimitReached(Exception):
    """No slot is left; `reason` names the limit that was reached."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


@dataclass(frozen=True)
class Limit:
    """At most `most` streams with `key`; over all processes if `shared`, else in this process."""

    reason: Reason
    key: str
    most: int
    shared: bool = True


class Limits:
    """Counts the streams of this process, from any number of event loops."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Reset all counts. A forked child does so, since it has none of the parent's streams."""
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    async def admit(self, address: Address, session_key: str | None) -> Slots:
        """Take the slots of a request in this process, at its address and in its session.

        Raises `LimitReached`. Call it before the user is known: `session_key` is the value of the
        session cookie, None without a cookie. Requests without one have their own address limit.
        """
        slots = Slots(self)
        await slots.add(_limits_before_login(address, session_key))
        return slots

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of slots taken under each key in this process, without zeros."""
        with self._lock:
            return dict(self._counts)

    def take(self, limits: Iterable[Limit]) -> None:
        """Count one more under each key, or raise `LimitReached` and count nothing."""
        with self._lock:
            for limit in limits:
                if self._counts[limit.key] >= limit.most:
                    raise LimitReached(limit.reason)
            self._counts.update(limit.key for limit in limits)

    def release(self, limits: Iterable[Limit]) -> None:
        """Count one less under each key."""
        with self._lock:
            for limit in limits:
                self._counts[limit.key] -= 1
                if self._counts[limit.key] <= 0:
                    del self._counts[limit.key]


class Slots:
    """The slots of one request, until `release()` or the end of its `with` block."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held: list[Limit] = []
        self._shared: list[tuple[SharedCounts, list[str]]] = []
        self._released = False

    async def identify(self, user: Any) -> None:
        """Take a slot of `user` if the user is signed in. Raises `LimitReached`."""
        most = settings().STREAMS_PER_USER
        if most is not None and user is not None and user.is_authenticated:
            await self.add([Limit("user", f"user:{scoped(str(user.pk), namespace())}", most)])

    async def add(self, limits: list[Limit]) -> None:
        """Take a slot under each limit; or release all slots and raise `LimitReached`."""
        try:
            self._limits.take(limits)
            self._held += limits
            await self._share([limit for limit in limits if limit.shared])
        except BaseException:
            self.release()
            raise

    async def _share(self, limits: list[Limit]) -> None:
        counts = shared_counts() if limits else None
        if counts is None:
            return
        full = await counts.take({limit.key: limit.most for limit in limits})
        if full is not None:
            raise LimitReached(next(limit.reason for limit in limits if limit.key == full))
        self._shared.append((counts, [limit.key for limit in limits]))

    def release(self) -> None:
        """Release all slots. Call it on the loop that took them; a second call does nothing.

        Never blocks.
        """
        if self._released:
            return
        self._released = True
        self._limits.release(self._held)
        for counts, keys in self._shared:
            counts.release(keys)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _limits_before_login(address: Address, session_key: str | None) -> list[Limit]:
    of = settings()
    limits = []
    if of.STREAMS_PER_PROCESS is not None:
        limits.append(Limit("process", "process", of.STREAMS_PER_PROCESS, shared=False))
    kind, most = "address", of.STREAMS_PER_ADDRESS
    if not session_key:
        kind, most = "anonymous", of.STREAMS_PER_ANONYMOUS_ADDRESS
    if address.limited and most is not None:
        limits += [Limit("address", f"{kind}:{k}", most * n) for k, n in address.shares.items()]
    if session_key and of.STREAMS_PER_SESSION is not None:
        # A digest, because a session's key gives access to the session.
        session = f"session:{session_digest(session_key)}"
        limits.append(Limit("session", session, of.STREAMS_PER_SESSION))
    return limits


#: The limits of this process.
LIMITS: Final = Limits()


at_fork(LIMITS.forget)
