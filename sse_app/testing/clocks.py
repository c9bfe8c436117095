"""`SseClock`: the time of the streams in a test, which advances only when the test says so."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from ..access import readers
from ..delivery import cohorts, hub, streams
from ..delivery.hub import tick_interval
from ..delivery.transports import asgi, daphne

#: The modules that read the time for a stream.
MODULES: Final = (hub, streams, readers, cohorts, asgi, daphne)
#: Iterations of the event loop after a tick, in which transports write. Without them the
#: transports would seem stalled.
TURNS: Final = 10


class SseClock:
    """Replaces the module `time` in the modules of the streams. Made by the fixture `sse_clock`."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._passed = 0.0

    async def advance(self, seconds: float) -> None:
        """Advance by `seconds`, with all ticks of this event loop's streams in between.

        In their order: heartbeats, the end of a stream's life or of its right, and the abort of a
        stalled reader. Unchanged are the tasks of the hub that read the log, and the heartbeats of
        an `EventStreamResponse`.
        """
        step = tick_interval()
        while seconds > 0:
            self._passed += min(step, seconds)
            seconds -= step
            for running in hub.running_hubs():
                await running.tick()
            for _ in range(TURNS):
                await asyncio.sleep(0)

    def monotonic(self) -> float:
        """Like `time.monotonic()`, but it changes only by `advance()`."""
        return self._began + self._passed

    def time(self) -> float:
        """Like `time.time()`, plus the seconds of all calls of `advance()`."""
        return time.time() + self._passed

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
