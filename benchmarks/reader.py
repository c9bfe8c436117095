"""A subscription that counts events, encoded as for a client's stream.

`subscribe()`, which is public, does not encode events, so this module needs private ones.
"""

from __future__ import annotations

import asyncio
from typing import Self

from sse_app.delivery.hub import get_hub
from sse_app.delivery.sinks import Sink
from sse_app.delivery.subscriptions import Subscription
from sse_app.eventlog.contract import Reason
from sse_app.protocol.events import Event


class Reader(Sink):
    """Made by `start()`; used on its own loop only."""

    def __init__(self, group: str) -> None:
        self.count = 0
        self.size = 0
        self.resets = 0
        self._awaited = 0
        self._arrived = asyncio.Event()
        self._hub = get_hub()
        self._subscription = Subscription(self, [group])
        self._running: asyncio.Task[str] | None = None

    @classmethod
    async def start(cls, group: str) -> Self:
        """Return a reader of the events that are published from now on."""
        reader = cls(group)
        await reader._hub.join(reader._subscription)
        reader._subscription.positions.update({group: reader._hub.position(group)})
        reader._running = asyncio.create_task(reader._subscription.run(reader._hub))
        return reader

    async def until(self, count: int) -> None:
        """Return when `count` events have arrived; raises `TimeoutError` after ten seconds."""
        self._awaited = count
        if self.count < count:
            self._arrived.clear()
            await asyncio.wait_for(self._arrived.wait(), 10)

    async def stop(self) -> None:
        """Leave the hub."""
        self._subscription.close("done")
        if self._running is not None:
            await self._running
        await self._hub.leave(self._subscription)
        assert not self.resets, "the stream was reset"

    @property
    def ready(self) -> bool:
        """See `Sink`."""
        return True

    async def drained(self) -> None:
        """See `Sink`."""

    def show(self, event: Event, cursor: str, block: bytes) -> None:
        """See `Sink`."""
        self.count += 1
        self.size += len(block)
        if self.count == self._awaited:
            self._arrived.set()

    def reset(self, group: str, reason: Reason, cursor: str) -> None:
        """See `Sink`."""
        self.resets += 1

    def passed(self, cursor: str) -> None:
        """See `Sink`."""
