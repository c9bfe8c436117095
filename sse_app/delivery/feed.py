"""`Feed`: the topics of one event loop and the log behind them, as a reader sees them."""

from __future__ import annotations

import asyncio

from ..protocol.cursors import Position
from ..protocol.events import Event
from .healing import Healer
from .log_reader import PAGE_EVENTS, LogReader
from .snapshots import SharedSnapshots
from .topics import Topic


class Feed:
    """What a subscription reads from. Used on its own loop only.

    The hub is the only feed. Subscriptions name the feed and not the hub, because they need
    nothing of how a hub begins and ends.
    """

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}
        self._log_reader = LogReader()
        self._healer = Healer(self.topics, self._log_reader)
        self.snapshots = SharedSnapshots(self.topics)

    def position(self, group: str) -> Position:
        """Return the position up to which the topic of a joined group was delivered."""
        position = self.topics[group].position
        assert position is not None, f"{group} was not joined"
        return position

    def reached(self, group: str, position: Position) -> int:
        """Return how many readers here got the event at `position` so far, 0 if long ago."""
        topic = self.topics.get(group)
        return topic.reached(position) if topic else 0

    async def read(self, group: str, after: Position) -> list[Event]:
        """Return the next page after `after`, from memory or by one read shared by all readers.

        Raises `Discontinuity` as `EventLog.since()` does.
        """
        topic = self.topics[group]
        recent = topic.recent(after, PAGE_EVENTS)
        if recent:
            return recent
        events = await self._log_reader.page(group, after)
        topic.remember_earlier(events)
        return events

    async def earliest(self, group: str) -> Position:
        """Return the position before the first event that the log still has."""
        return await self._log_reader.earliest(group)

    async def began(self) -> float:
        """Return the Unix time since which the log is the same, see `EventLog.began()`."""
        return await self._log_reader.began()

    async def heal(self, group: str) -> None:
        """Bring the topic up to the log's head."""
        await asyncio.shield(self._healer.soon(group))

    async def check(self) -> None:
        """Compare the log's heads with the topics, and heal the topics that differ."""
        await self._healer.check()
