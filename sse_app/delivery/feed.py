"""`Feed`: the topics of one event loop and their event log, as a subscription sees them."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

from ..protocol.cursors import Position
from ..protocol.events import Event
from .healing import Healer
from .log_reader import PAGE_EVENTS, LogReader
from .recent import Budget
from .sinks import Sink
from .snapshots import SharedSnapshots
from .timers import Timers
from .topics import Topic


class Feed:
    """The source of a subscription. Used on its own loop only.

    The hub is the only feed. Subscriptions know the feed and not the hub, because the start and
    end of a hub do not concern them.
    """

    def __init__(self) -> None:
        self.topics: OrderedDict[str, Topic] = OrderedDict()
        #: When the last check ended without an error, by `time.monotonic()`; at first, now.
        self.checked_at = time.monotonic()
        self._budget = Budget()
        self._log_reader = LogReader()
        self._healer = Healer(self.topics, self._log_reader)
        self.snapshots = SharedSnapshots(self.topics)
        self.timers = Timers()
        #: The readers that are not live, by their sinks; and the sinks that may have unsent bytes.
        #: So a report need not look at all readers.
        self.behind: set[Sink] = set()
        self.sending: set[Sink] = set()

    def position(self, group: str) -> Position:
        """Return the position up to which the events of a joined group were delivered."""
        position = self.topics[group].position
        assert position is not None, f"{group} was not joined"
        return position

    def is_at(self, group: str, position: Position) -> bool:
        """Return whether the events of a joined group were delivered up to `position`."""
        return self.position(group).agrees(position)

    def reached(self, group: str, position: Position) -> int:
        """Return how many readers here got the event at `position`; 0 if it is not recent."""
        topic = self.topics.get(group)
        return topic.reached(position) if topic else 0

    async def read(self, group: str, after: Position) -> list[Event]:
        """Return the page after `after`, from memory or by a read that all readers share.

        Raises `Discontinuity` as `EventLog.since()` does.
        """
        topic = self.topics[group]
        recent = topic.recent(after, PAGE_EVENTS)
        if recent:
            return recent
        behind = topic.position.offset - after.offset if topic.position else 0
        events = await self._log_reader.page(group, after, behind)
        topic.remember_earlier(events)
        return events

    async def earliest(self, group: str) -> Position:
        """Return the position before the first event that the log still has."""
        return await self._log_reader.earliest(group)

    async def heal(self, group: str) -> None:
        """Bring the topic up to the log's head."""
        await asyncio.shield(self._healer.soon(group))

    async def check(self) -> None:
        """Heal the topics that lost events, see `Healer`."""
        await self._healer.check()
        self.checked_at = time.monotonic()

    async def check_all(self) -> None:
        """Compare all heads in the log with the topics, and heal the topics that differ."""
        await self._healer.check_all()
        self.checked_at = time.monotonic()
