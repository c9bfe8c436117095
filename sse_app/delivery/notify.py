"""`Notify` and `Interruptible`: waits of one task. Each stream has both, so they are small."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class Notify:
    """Like an `asyncio.Event` that is cleared before each wait; for one task, on one loop.

    An `asyncio.Event` keeps 760 bytes for its waiters, although mostly no task waits.
    """

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Continue the task that waits now."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def next(self) -> asyncio.Future[None]:
        """Return a future to await for the next `set()`; an earlier `set()` does not count."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter


class Interruptible:
    """Awaits one piece of work at a time, which the same loop may interrupt."""

    def __init__(self) -> None:
        self._pending: asyncio.Future[Any] | None = None

    async def _unless_interrupted(
        self, work: Callable[[], Coroutine[Any, Any, _Result]]
    ) -> _Result | None:
        """Return the result of `work()`, or None if `_interrupt()` was called meanwhile."""
        pending = self._pending = asyncio.create_task(work())
        try:
            await asyncio.wait([pending])
        finally:
            interrupted, self._pending = self._pending is None, None
            pending.cancel()
        if not interrupted:
            result: _Result = pending.result()
            return result
        if not pending.cancelled():
            pending.exception()  # Retrieved, so that asyncio does not log it.
        return None

    def _interrupt(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
