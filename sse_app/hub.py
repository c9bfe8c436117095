"""`Hub`: one per event loop, with one channel-layer mailbox for all streams of the process.

It gets each event once, hands it to the group's `Topic`, and sees to it that no topic stays
behind the log: a jump is healed at once, a lost last message by the check of the heads, a
publisher that died before numbering by the sweep. It lives while it has subscriptions.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection
from typing import ClassVar, Final
from weakref import WeakKeyDictionary

from channels.db import database_sync_to_async
from channels.layers import InMemoryChannelLayer

from . import layer
from .conf import settings
from .cursors import Position
from .eventlog import Discontinuity, event_log
from .events import Event
from .mailbox import Mailbox
from .subscriptions import Subscription
from .timers import every, logged
from .topics import Topic

PAGE_EVENTS: Final = 500
#: How long a gap may fill by itself before the log is read: messages overtake each other.
GRACE_SECONDS: Final = 0.01
REJOIN_SECONDS: Final = 3600.0

logger = logging.getLogger("sse_app")


class Hub:
    """Topics, subscriptions and the tasks that serve them. Used on its own loop only."""

    #: Is the process about to stop? Set for all hubs, those to come included.
    draining: ClassVar[bool] = False

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.topics: dict[str, Topic] = {}
        self.subscriptions: set[Subscription] = set()
        self.tickers: set[Callable[[float], None]] = set()
        self._closed = False
        self._mailbox = Mailbox(lambda: self.topics, self._deliver, self.check)
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._healing: dict[str, asyncio.Task[None]] = {}
        self._reading: dict[tuple[str, Position], asyncio.Task[list[Event]]] = {}
        self._checking = asyncio.Lock()
        self._changed = asyncio.Event()
        layer.adopt(self.loop)
        self._stop_watch = event_log().watch(self._on_log_changed)
        self._tasks = [
            self.loop.create_task(self._mailbox.receive()),
            self.loop.create_task(self._check_on_change()),
            self.loop.create_task(every(_check_interval, self.check)),
            self.loop.create_task(every(lambda: settings().SWEEP_INTERVAL, self._sweep)),
            self.loop.create_task(every(lambda: REJOIN_SECONDS, self._mailbox.join_all)),
            self.loop.create_task(every(_tick_interval, self._tick)),
        ]

    # --- subscriptions ---

    async def join(self, subscription: Subscription) -> None:
        """Add `subscription` to its groups' topics; each then has a position.

        Raises what the event log raises; the subscription is then in no topic.
        """
        self.subscriptions.add(subscription)
        for group in subscription.groups:
            topic = self.topics.setdefault(group, Topic(group))
            topic.subscriptions.add(subscription)
            if topic.position is None and group not in self._starting:
                self._starting[group] = self.loop.create_task(self._start(group))
        try:
            for group in subscription.groups:
                if group in self._starting:
                    # Shielded: the first reader's disconnect must not take the others' start.
                    await asyncio.shield(self._starting[group])
        except BaseException:
            await self.leave(subscription)
            raise

    async def leave(self, subscription: Subscription) -> None:
        """Take `subscription` out; the last one out closes the hub."""
        self.subscriptions.discard(subscription)
        empty = []
        for group in subscription.groups:
            topic = self.topics.get(group)
            if topic is None:
                continue
            topic.subscriptions.discard(subscription)
            if not topic.subscriptions:
                del self.topics[group]
                empty.append(group)
        if not self.subscriptions:
            await self.close(empty)
            return
        for group in empty:
            await self._mailbox.leave(group)
            if group in self.topics:  # Somebody came while the layer took its time.
                await self._mailbox.join(group)

    def position(self, group: str) -> Position:
        """Return up to where the topic of a joined group was served."""
        position = self.topics[group].position
        assert position is not None, f"{group} was not joined"
        return position

    async def read(self, group: str, after: Position) -> list[Event]:
        """Return the next page after `after`, from memory or by one read shared by all who ask.

        Raises `Discontinuity` as `EventLog.since()` does.
        """
        topic = self.topics[group]
        recent = topic.recent(after, PAGE_EVENTS)
        if recent:
            return recent
        reading = self._reading.get((group, after))
        if reading is None:
            reading = self.loop.create_task(event_log().asince(group, after, PAGE_EVENTS))
            self._reading[group, after] = reading
            reading.add_done_callback(lambda _: self._reading.pop((group, after), None))
        events = await asyncio.shield(reading)
        topic.remember_earlier(events)
        return events

    def _deliver(self, event: Event) -> None:
        topic = self.topics.get(event.group)
        if topic is not None:
            topic.offer(event)
            if topic.has_gap and topic.position is not None:
                self._heal_soon(event.group)

    # --- healing ---

    async def heal(self, group: str) -> None:
        """Bring the topic up to the log's head."""
        await asyncio.shield(self._heal_soon(group))

    async def check(self) -> None:
        """Compare the log's heads with the topics, and heal those that differ."""
        async with self._checking:
            before = {
                group: topic.position
                for group, topic in self.topics.items()
                if topic.position is not None
            }
            heads = await event_log().aheads(before)
        for group, head in heads.items():
            topic, old = self.topics.get(group), before[group]
            now = topic.position if topic else None
            if now is None or now == head:
                continue
            # A topic that moved past `head` while it was read is well; one behind it is not.
            if head.epoch != now.epoch or head.offset > now.offset or head.offset < old.offset:
                self._heal_soon(group)

    def _heal_soon(self, group: str) -> asyncio.Task[None]:
        task = self._healing.get(group)
        if task is None or task.done():
            task = self._healing[group] = self.loop.create_task(self._heal(group))
            task.add_done_callback(lambda done: self._healed(group, done))
        return task

    def _healed(self, group: str, task: asyncio.Task[None]) -> None:
        if self._healing.get(group) is task:
            del self._healing[group]

    async def _heal(self, group: str) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        while (topic := self.topics.get(group)) is not None and topic.position is not None:
            ahead = topic.ahead
            try:
                events = await event_log().asince(group, topic.position, PAGE_EVENTS)
            except Discontinuity as lost:
                await self._restart(topic, lost)
                return
            except Exception as error:
                # The next check of the heads tries again.
                logger.warning("The event log can't be read to heal group %s: %r", group, error)
                return
            topic.advance(events)
            if len(events) < PAGE_EVENTS:
                topic.forget_ahead(ahead)
                if not topic.has_gap:
                    return

    async def _restart(self, topic: Topic, lost: Discontinuity) -> None:
        if lost.reason != "future":
            topic.restart(lost.reason, lost.head)
            return
        # What was committed is gone: an older log was restored. Its offsets will be given out
        # again, so its epoch must not be.
        logger.error("The log of group %s went backwards; it gets a new epoch.", topic.group)
        log = event_log()
        await database_sync_to_async(log.renew_epoch)([topic.group])
        heads = await log.aheads([topic.group])
        topic.restart("epoch", heads[topic.group])

    async def _start(self, group: str) -> None:
        """Join the group on the layer, then read its head: what comes between is kept."""
        try:
            await self._mailbox.join(group)
            heads = await event_log().aheads([group])
            # Looked up only now: the last reader may have left, and another made the topic anew.
            topic = self.topics.get(group)
            if topic is not None and topic.position is None:
                topic.start(heads[group])
                if topic.has_gap:
                    self._heal_soon(group)
        finally:
            self._starting.pop(group, None)

    # --- what time and other processes bring ---

    async def _sweep(self) -> None:
        """Number what a publisher committed but did not live to number."""
        layer.send(await event_log().anumber())

    async def _tick(self) -> None:
        now = time.monotonic()
        for ticker in list(self.tickers):
            ticker(now)

    def _on_log_changed(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:
            pass  # The loop has closed; the watcher is about to be told.

    async def _check_on_change(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            # Most commits are this process's own and arrive by the layer meanwhile.
            await asyncio.sleep(GRACE_SECONDS)
            await logged(self.check)

    async def close(self, joined: Collection[str] = ()) -> None:
        """Stop every task; a later subscription gets another hub. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if _hubs.get(self.loop) is self:
            del _hubs[self.loop]
        layer.release(self.loop)
        if self._stop_watch:
            self._stop_watch()
        tasks = [*self._tasks, *self._healing.values(), *self._starting.values()]
        tasks = [task for task in tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for group in joined:
            await self._mailbox.leave(group)


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def get_hub() -> Hub:
    """Return the hub of the running loop, started if there is none."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        hub = _hubs[loop] = Hub()
    return hub


def running_hubs() -> Collection[Hub]:
    """Return the hubs of this process."""
    return list(_hubs.values())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_hubs.clear)


def _check_interval() -> float:
    interval = settings().CHECK_INTERVAL
    if interval is not None:
        return interval
    return 0.5 if isinstance(layer.channel_layer(), InMemoryChannelLayer) else 2.0


def _tick_interval() -> float:
    return min(1.0, settings().HEARTBEAT / 4)
