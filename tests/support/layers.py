"""Channel layers: one of a class that the app does not know, and one that misbehaves."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from channels.layers import InMemoryChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

#: Longer than the grace that the hub gives a gap, so that a late message is overtaken.
LATE_SECONDS = (0.0, 0.1)


class ForeignLayer:
    """Works as the in-memory layer does, but has a layer group for each group, as on Redis."""

    def __init__(self, **options: Any) -> None:
        self.inner = InMemoryChannelLayer(**options)

    @property
    def groups(self) -> dict[str, dict[str, float]]:
        """The channels of each group, and when they joined."""
        found: dict[str, dict[str, float]] = self.inner.groups
        return found

    async def new_channel(self, prefix: str = "specific.") -> str:
        """See `InMemoryChannelLayer`, as for all methods."""
        return str(await self.inner.new_channel(prefix))

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        await self.inner.send(channel, message)

    async def receive(self, channel: str) -> Any:
        return await self.inner.receive(channel)

    async def group_add(self, group: str, channel: str) -> None:
        await self.inner.group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        await self.inner.group_discard(group, channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        await self.inner.group_send(group, message)


class ChaosLayer(RedisPubSubChannelLayer):  # type: ignore[misc]  # channels_redis has no types
    """The pub/sub layer with a share of its group messages lost, sent twice, or sent late.

    `drop`, `double` and `late` are shares between 0 and 1, drawn by a generator that begins at
    `seed`. A late message is overtaken by what is sent after it, which reorders them.
    """

    def __init__(
        self,
        *args: Any,
        drop: float = 0.0,
        double: float = 0.0,
        late: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.drop, self.double, self.late = drop, double, late
        self.dropped = 0
        self._random = random.Random(seed)
        self._sending: set[asyncio.Task[None]] = set()

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send `message` to `group` never, once or twice, now or later."""
        if self._random.random() < self.drop:
            self.dropped += 1
            return
        copies = 2 if self._random.random() < self.double else 1
        for _ in range(copies):
            if self._random.random() < self.late:
                delay = self._random.uniform(*LATE_SECONDS)
                task = asyncio.create_task(self._send_late(group, message, delay))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
            else:
                await self._get_layer().group_send(group, message)

    async def _send_late(self, group: str, message: dict[str, Any], delay: float) -> None:
        await asyncio.sleep(delay)
        try:
            await self._get_layer().group_send(group, message)
        except Exception:
            pass  # One more that is lost.
