"""`SseClock`: the time of the streams in a test, which passes when the test says so."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from ..access import readers
from ..delivery import cohorts, hub, streams
from ..delivery.hub import tick_interval
from ..delivery.transports import asgi, daphne

#: The modules that look at the time of a stream.
MODULES: Final = (hub, streams, readers, cohorts, asgi, daphne)
#: Turns of the event loop in which transports write what a tick gave them, or they seem stalled.
TURNS: Final = 10


class SseClock:
    """Stands in for the module `time` in the modules of the streams. A fixture makes it."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._passed = 0.0

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, with all ticks of the streams of this event loop in between.

        Heartbeats, the end of a stream's life and that of its right, and giving up a stalled
        reader come in their order. Nothing else moves: not the tasks of the hub that look at the
        log, and not the heartbeats of an `EventStreamResponse`.
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
        """As `time.monotonic()`; it stands still until `advance()`."""
        return self._began + self._passed

    def time(self) -> float:
        """As `time.time()`, later by what has passed."""
        return time.time() + self._passed

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
