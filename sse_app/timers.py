"""Work that a task does again and again, whatever happens to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger("sse_app")


async def every(interval: Callable[[], float], work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` for ever, `interval()` seconds after it was last done."""
    while True:
        await asyncio.sleep(interval())
        await logged(work)


async def logged(work: Callable[[], Awaitable[None]]) -> None:
    """Do `work`; an exception is logged and never ends the caller."""
    try:
        await work()
    except Exception:
        logger.warning("The hub's %s failed; it is tried again.", work, exc_info=True)
