"""Work that a task does again and again, whatever happens to it, and how often it is due."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from channels.layers import InMemoryChannelLayer

from .callables import contained
from .conf import channel_layer, settings
from .records import about

logger = logging.getLogger("sse_app")


async def every(interval: Callable[[], float], work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` for ever, `interval()` seconds after it was last done."""
    while True:
        await asyncio.sleep(interval())
        await logged(work)


async def logged(work: Callable[[], Awaitable[None]]) -> None:
    """Do `work`; an exception is logged and never ends the caller."""
    try:
        with contained():
            await work()
    except Exception:
        logger.warning(
            "The hub's %s failed; it is tried again.", work, exc_info=True, extra=about()
        )


def check_interval() -> float:
    """Seconds between two looks at the log's heads."""
    interval = settings().CHECK_INTERVAL
    if interval is not None:
        return interval
    return 0.5 if isinstance(channel_layer(), InMemoryChannelLayer) else 2.0


def prune_interval() -> float:
    """Seconds until the log is pruned again."""
    # At random, so that of several processes rarely two are at it at the same time.
    return settings().PRUNE_INTERVAL * random.uniform(0.5, 1.5)


def tick_interval() -> float:
    """Seconds between two ticks of the streams."""
    return min(1.0, settings().HEARTBEAT / 4)
