"""`Notify`: what one task waits for. Every stream has some for all its life, so they are small."""

from __future__ import annotations

import asyncio


class Notify:
    """As an `asyncio.Event` that is cleared before each wait, for one task, on one loop.

    An Event keeps 760 bytes for those who wait, mostly for nobody.
    """

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Let the task that waits now go on."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def next(self) -> asyncio.Future[None]:
        """Return what to await for the next `set()`; what was set before does not count."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter
