"""Subscriptions that run in tasks of their own, and what they have seen."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sse_app.delivery.hub import Hub, get_hub
from sse_app.delivery.sinks import Sink
from sse_app.delivery.subscriptions import Subscription
from sse_app.protocol.cursors import Position
from sse_app.protocol.events import Event

from .patience import PATIENCE


class ListSink(Sink):
    def __init__(self) -> None:
        self.seen: list[str] = []
        self.notices: list[tuple[str, str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.grown = asyncio.Event()

    @property
    def ready(self) -> bool:
        return self.open.is_set()

    async def drained(self) -> None:
        await self.open.wait()

    def show(self, event: Event, cursor: str, block: bytes) -> None:
        self.seen.append(event.data)
        self.grown.set()

    def reset(self, group: str, reason: str, cursor: str) -> None:
        self.notices.append((group, reason))
        self.grown.set()

    def passed(self, cursor: str) -> None:
        self.notices.append(("", "passed"))

    async def until(self, last: str) -> None:
        while last not in self.seen[-1:]:
            self.grown.clear()
            await asyncio.wait_for(self.grown.wait(), PATIENCE)


class Reader:
    """A subscription that runs in a task of its own."""

    async def start(
        self, *groups: str, names: tuple[str, ...] = (), at: Position | None = None
    ) -> Reader:
        self.sink = ListSink()
        self.hub: Hub = get_hub()
        self.subscription = Subscription(self.sink, groups, names)
        await self.hub.join(self.subscription)
        self.subscription.positions.update(
            {group: at or self.hub.position(group) for group in groups}
        )
        self.task = asyncio.create_task(self.subscription.run(self.hub))
        return self

    async def stop(self) -> None:
        self.subscription.close("done")
        assert await self.task == "done"
        await self.hub.leave(self.subscription)


@pytest.fixture
def memory(settings: Any) -> None:
    settings.SSE_APP = {
        "EVENT_LOG": "sse_app.eventlog.MemoryEventLog",
        "CHECK_INTERVAL": 0.05,
    }
