"""`Healer`: brings topics up to the event log when the channel layer has lost messages.

A gap is read from the log immediately. A lost last message is found by a check, which asks the log
for the heads that changed since the last one.

Beside these, each check compares the heads of some topics, so that every topic has its turn within
`ROUND_SECONDS`, and of the groups that were delivered to last: their events are the first to be
missing in a log that went back. If one of them is, all heads are compared.

A log that went back, or went back and grew again, gets a new epoch: some readers have events that
the log has no longer, and others lack them without knowing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Final

from ..eventlog import Discontinuity, EventLog, event_log
from ..protocol.cursors import Position
from ..runtime.rare_logs import RareLog
from ..runtime.services import spawn
from ..runtime.telemetry import COUNTS, log_fields
from .log_reader import PAGE_EVENTS, LogReader
from .starts import PORTION
from .topics import DELIVERIES, Topic

#: Seconds before a gap is read from the log: messages may arrive out of order.
GRACE_SECONDS: Final = 0.01
#: The time in which all heads are compared, or the time between two checks if that is longer.
ROUND_SECONDS: Final = 60.0
#: The heads that a check compares at least, and the groups whose last event it looks for.
FEWEST: Final = 50
RECENT: Final = 16

logger = logging.getLogger("sse_app")
_log_failed = RareLog(logger)


class Healer:
    """Heals `topics`, which the hub changes, and this class reorders. Used on the hub's own loop.

    The topics whose heads were compared last are the last ones.
    """

    def __init__(self, topics: OrderedDict[str, Topic], log_reader: LogReader) -> None:
        self._topics = topics
        self._log: EventLog | None = None
        self._since: object = None
        #: Whether the next check compares all heads.
        self._whole = True
        #: The next check compares these: their heads changed before their topics had positions, or
        #: they could not be healed.
        self._pending: set[str] = set()
        self._recent: dict[str, None] = {}
        self._turned_at = time.monotonic()
        self._due = 0.0
        #: How many topics have not had their turn since the log changed.
        self._unturned = 0
        self._log_reader = log_reader
        self._healing: dict[str, asyncio.Task[None]] = {}
        self._checking = asyncio.Lock()

    @property
    def is_settled(self) -> bool:
        """Whether every topic has had its turn since the log changed, and is healed."""
        return not (self._whole or self._pending or self._healing or self._unturned > 0)

    def log_changed(self) -> None:
        """Give each topic its turn: the log has changed, and may have gone back."""
        self._unturned = len(self._topics)

    def rest(self) -> None:
        """Note that the log is unchanged, so that no topic waits for its turn."""
        self._turned_at = time.monotonic()

    def soon(self, group: str) -> asyncio.Task[None]:
        """Begin to bring the topic of `group` up to the log's head; return the task."""
        task = self._healing.get(group)
        if task is None or task.done():
            COUNTS.heals += 1
            task = self._healing[group] = spawn(self._heal, group)
            task.add_done_callback(lambda done: self._healed(group, done))
        return task

    def delivered(self, group: str) -> None:
        """Note that readers got an event of `group`."""
        self._recent.pop(group, None)
        self._recent[group] = None
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]

    async def check(self) -> None:
        """Heal the topics whose heads changed, and those of the next portion whose heads differ."""
        async with self._checking:
            await self._check([*self._recent, *self._pending, *self._turn()])

    async def check_all(self) -> None:
        """Compare all heads with the topics, and heal the topics that differ."""
        self._whole = True
        await self.check()

    async def check_changes(self) -> None:
        """Heal the topics whose heads changed since the last check."""
        async with self._checking:
            await self._check(list(self._pending))

    async def _check(self, also: Sequence[str]) -> None:
        log = event_log()
        if log is not self._log:
            self._log, self._since = log, None
        whole, self._whole = self._whole, False
        before = self._positions(also)
        self._pending = {one for one in self._pending if one in self._topics and one not in before}
        try:
            changes = await log.achanges(self._since, self._topics, before)
            unclear = self._judge(changes.heads or {}, before)
            all_heads = whole or changes.heads is None
            await self._compare(list(self._topics) if all_heads else unclear)
        except BaseException:
            # Some answers are lost, and perhaps the log was replaced meanwhile.
            self._whole = True
            raise
        self._since = changes.since

    def _turn(self) -> list[str]:
        """Return the groups whose turn it is, and make them the last ones."""
        now = time.monotonic()
        self._due += len(self._topics) * (now - self._turned_at) / ROUND_SECONDS
        self._turned_at = now
        groups = list(islice(self._topics, max(FEWEST, int(self._due))))
        self._due = max(0.0, self._due - len(groups))
        self._unturned -= len(groups)
        for group in groups:
            self._topics.move_to_end(group)
        return groups

    def _positions(self, groups: Collection[str]) -> dict[str, Position]:
        found = ((group, self._topics.get(group)) for group in groups)
        return {group: topic.position for group, topic in found if topic and topic.position}

    async def _compare(self, groups: Sequence[str]) -> None:
        for at in range(0, len(groups), PORTION):
            before = self._positions(groups[at : at + PORTION])
            if before:
                self._judge(await event_log().aheads(before), before)

    def _judge(self, heads: Mapping[str, Position], before: Mapping[str, Position]) -> list[str]:
        """Heal the topics that differ from `heads`; return the groups that must be compared again.

        `before` has the positions of topics before `heads` were read.
        """
        unclear = []
        for group, head in heads.items():
            topic, old = self._topics.get(group), before.get(group)
            if topic is None:
                continue
            now = topic.position
            if now is None:
                # The first position may have been read before the change, and is set later.
                self._pending.add(group)
            elif now == head:
                continue
            elif head.offset > now.offset and (head.epoch == now.epoch or now.is_start):
                self.soon(group)
            elif old is None:
                # Either the topic has moved past `head` during the read, or the log went back.
                unclear.append(group)
            else:
                # A head behind the old position, or at its offset with another mark, means that
                # the log went back.
                went_back = head.offset <= old.offset and not head.agrees(old)
                if head.epoch != now.epoch or went_back:
                    self._whole = True
                    self.soon(group)
        return unclear

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
            self._pending.add(group)
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
            self._whole = self._whole or lost.reason in ("epoch", "future")
            if lost.reason in ("epoch", "future") and lost.head.epoch == position.epoch:
                await self._renew(topic, lost.head.epoch)
            else:
                self._restart(topic, lost)
            return False
        per_turn = max(1, DELIVERIES // (topic.readers or 1))
        for start in range(0, len(events), per_turn):
            topic.advance(events[start : start + per_turn])
            self.delivered(topic.group)
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
