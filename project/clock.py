"""The server's clock: one task per server process, running only while the clock has subscribers.

With several server processes, each one that has a subscriber publishes the time. A page then gets
the same second more than once, which does not matter for a clock.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakKeyDictionary

from django.dispatch import receiver
from django.utils import timezone

from sse_app import apublish
from sse_app.responses import Close
from sse_app.signals import stream_closed, stream_opened

GROUP = "clock"
LONGEST_STREAM = 600

logger = logging.getLogger(__name__)


async def ticks() -> AsyncIterator[str]:
    """Yield the time in ISO format at the start of every second."""
    while True:
        await asyncio.sleep(1 - time.time() % 1)
        yield timezone.now().isoformat(timespec="milliseconds")


async def ticks_for_one_page() -> AsyncIterator[tuple[str, dict[str, str]] | Close]:
    """Yield named events for a one-off stream, which ends after ten minutes; browsers reconnect."""
    left = LONGEST_STREAM
    async for now in ticks():
        yield "tick", {"time": now}
        left -= 1
        if not left:
            yield Close("age")


class Clock:
    """Publishes the time for as long as at least one stream of its event loop listens."""

    def __init__(self) -> None:
        self._listeners: set[Any] = set()
        self._task: asyncio.Task[None] | None = None

    def join(self, stream: Any) -> None:
        """Add a listener; the first starts the clock."""
        self._listeners.add(stream)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="demo clock")

    async def leave(self, stream: Any) -> None:
        """Remove a listener; the last stops the clock and waits for its end."""
        self._listeners.discard(stream)
        if self._listeners or self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait([task])

    async def _run(self) -> None:
        async for now in ticks():
            try:
                await apublish(GROUP, "clock.tick", {"time": now}, durable=False, key=GROUP)
            except Exception:
                # Try again in the next second: the log or the channel layer may answer then.
                logger.exception("The clock could not publish the time")


# By event loop: a fork, a test or a second server thread has its own loop and needs its own clock.
_clocks: WeakKeyDictionary[asyncio.AbstractEventLoop, Clock] = WeakKeyDictionary()


@receiver(stream_opened)
async def start_clock(stream: Any, **kwargs: Any) -> None:
    """Start the clock when its first listener comes."""
    if GROUP in stream.groups:
        _clocks.setdefault(asyncio.get_running_loop(), Clock()).join(stream)


@receiver(stream_closed)
async def stop_clock(stream: Any, **kwargs: Any) -> None:
    """Stop the clock when its last listener leaves."""
    clock = _clocks.get(asyncio.get_running_loop())
    if clock is not None and GROUP in stream.groups:
        await clock.leave(stream)
