"""`Healer`: brings topics up to the event log when the channel layer has lost messages.

A gap is read from the log immediately. A lost last message is found when the heads are compared.
A log that went back, or went back and grew again, gets a new epoch: some readers have events that
the log has no longer, and others lack them without knowing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from ..eventlog import Discontinuity, event_log
from ..runtime.rare_logs import RareLog
from ..runtime.services import spawn
from ..runtime.telemetry import COUNTS, log_fields
from .log_reader import PAGE_EVENTS, LogReader
from .topics import DELIVERIES, Topic

#: Seconds before a gap is read from the log: messages may arrive out of order.
GRACE_SECONDS: Final = 0.01

logger = logging.getLogger("sse_app")
_log_failed = RareLog(logger)


class Healer:
    """Heals `topics`, a mapping that the hub changes; used on the hub's own loop only."""

    def __init__(self, topics: Mapping[str, Topic], log_reader: LogReader) -> None:
        self._topics = topics
        self._log_reader = log_reader
        self._healing: dict[str, asyncio.Task[None]] = {}
        self._checking = asyncio.Lock()

    def soon(self, group: str) -> asyncio.Task[None]:
        """Begin to bring the topic of `group` up to the log's head; return the task."""
        task = self._healing.get(group)
        if task is None or task.done():
            COUNTS.heals += 1
            task = self._healing[group] = spawn(self._heal, group)
            task.add_done_callback(lambda done: self._healed(group, done))
        return task

    async def check(self) -> None:
        """Compare the heads in the log with the topics, and heal the topics that differ."""
        async with self._checking:
            before = {
                group: topic.position
                for group, topic in self._topics.items()
                if topic.position is not None
            }
            heads = await event_log().aheads(before)
        for group, head in heads.items():
            topic, old = self._topics.get(group), before[group]
            now = topic.position if topic else None
            if now is None or now == head:
                continue
            # A topic may have moved past `head` during the read. A topic behind `head` has lost
            # events. A head behind the old position, or at its offset with another mark, means
            # that the log went back.
            went_back = head.offset <= old.offset and not head.agrees(old)
            if head.epoch != now.epoch or head.offset > now.offset or went_back:
                self.soon(group)

    async def close(self) -> None:
        """Cancel all healing tasks and wait for their ends."""
        tasks = list(self._healing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _healed(self, group: str, task: asyncio.Task[None]) -> None:
        if self._healing.get(group) is task:
            del self._healing[group]

    async def _heal(self, group: str) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        try:
            while (topic := self._topics.get(group)) is not None and topic.position is not None:
                if not await self._read_on(topic):
                    return
        except Exception as error:
            # The next check of the heads tries again.
            _log_failed(
                "The event log can't be read to heal group %s: %r",
                group,
                error,
                extra=log_fields(group=group, error=error),
            )

    async def _read_on(self, topic: Topic) -> bool:
        """Take the next page of the log; return whether there may be more."""
        assert topic.position is not None
        ahead, position = topic.ahead, topic.position
        topic.contradicted = False
        try:
            events = await event_log().asince(topic.group, position, PAGE_EVENTS)
        except Discontinuity as lost:
            if lost.reason in ("epoch", "future") and lost.head.epoch == position.epoch:
                await self._renew(topic, lost.head.epoch)
            else:
                self._restart(topic, lost)
            return False
        per_turn = max(1, DELIVERIES // (topic.readers or 1))
        for start in range(0, len(events), per_turn):
            topic.advance(events[start : start + per_turn])
            await asyncio.sleep(0)
        if len(events) < PAGE_EVENTS:
            topic.forget_ahead(ahead)
            return topic.needs_healing
        return True

    async def _renew(self, topic: Topic, epoch: str) -> None:
        log = event_log()
        if await log.arenew_epoch([topic.group], only=epoch):
            logger.error(
                "The log of group %s went back and lost events; it got a new epoch.",
                topic.group,
                extra=log_fields(group=topic.group),
            )
        heads = await log.aheads([topic.group])
        self._restart(topic, Discontinuity("epoch", heads[topic.group]))

    def _restart(self, topic: Topic, lost: Discontinuity) -> None:
        self._log_reader.forget(topic.group)
        topic.restart(lost.reason, lost.head)
