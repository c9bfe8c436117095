"""`Hub`: one per event loop, with one channel-layer mailbox for all streams of the process.

It gets each event once and hands it to the group's `Topic`; what the layer loses, its `Healer`
reads from the log. It numbers what a publisher committed and did not live to number, and deletes
what is beyond retention. It lives while it has subscriptions.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import ClassVar, Final
from weakref import WeakKeyDictionary

from channels.db import database_sync_to_async

from . import layer, leftovers
from .conf import settings
from .control import ControlSink, Revocation, revocation_of
from .counters import COUNTS
from .cursors import START, Position
from .eventlog import Discontinuity, event_log
from .events import Event
from .feed import Feed
from .groups import CONTROL_GROUP
from .healing import GRACE_SECONDS
from .mailbox import Mailbox
from .patience import run_patiently
from .records import about
from .revalidation import Revalidator
from .services import Services, SharedTasks, Work
from .starts import Starts, read_heads
from .subscriptions import Subscription
from .timers import check_interval, every, logged, prune_interval, tick_interval
from .topics import Topic, place_of

REJOIN_SECONDS: Final = 3600.0
PRUNE_EVENTS: Final = 500
PRUNE_PAUSE: Final = 0.05

logger = logging.getLogger("sse_app")


class Hub(Feed):
    """Topics, subscriptions and the tasks that serve them. Used on its own loop only."""

    #: Is the process about to stop? Set for all hubs, those to come included.
    draining: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.subscriptions: set[Subscription] = set()
        self.tickers: set[Callable[[float], None]] = set()
        self._closed = False
        self._sent: float | None = None
        self._control = Subscription(ControlSink(), [CONTROL_GROUP])
        self._listens_since = START
        self.revalidator = Revalidator(self.loop)
        self._mailbox = Mailbox(lambda: self.topics, self._deliver, self.check)
        self._starts = Starts(self.topics, self._mailbox, self._healer.soon)
        self._changed = asyncio.Event()
        layer.adopt(self.loop)
        self._stop_watch = event_log().watch(self._on_log_changed)
        self.services = Services()
        for name, work in self._works().items():
            self.services.run(name, work)

    def _works(self) -> Mapping[str, Work]:
        rejoin = self._mailbox.join_all
        return {
            "receive": self._mailbox.receive,
            "watch": self._check_on_change,
            "check": lambda: every(check_interval, self.check),
            "sweep": lambda: every(lambda: settings().SWEEP_INTERVAL, self._sweep),
            "rejoin": lambda: every(lambda: REJOIN_SECONDS, rejoin),
            "prune": lambda: every(prune_interval, self._prune),
            "tick": lambda: every(tick_interval, self.tick),
            "revalidator": self.revalidator.run,
        }

    # --- subscriptions ---

    async def join(self, subscription: Subscription) -> None:
        """Add `subscription` to its groups' topics; each then has a position.

        Raises what the event log raises; the subscription is then in no topic.
        """
        self.subscriptions.add(subscription)
        try:
            await self._listen_to_control()
            await self._attach(subscription)
        except BaseException:
            await self.leave(subscription)
            raise

    async def leave(self, subscription: Subscription) -> None:
        """Take `subscription` out; the last one out closes the hub."""
        self.subscriptions.discard(subscription)
        empty = self._detach(subscription, subscription.groups)
        if self.subscriptions:
            await self._quit(empty)
        else:
            await self.close([*empty, CONTROL_GROUP])

    async def drop(self, subscription: Subscription, group: str) -> None:
        """Take one of its groups from `subscription`."""
        subscription.drop(group)
        await self._quit(self._detach(subscription, [group]))

    async def _attach(self, subscription: Subscription) -> None:
        for group in subscription.groups:
            topic = self.topics.setdefault(group, Topic(group))
            topic.subscriptions.add(subscription)
        await self._starts.started(subscription.groups)

    def _detach(self, subscription: Subscription, groups: Collection[str]) -> list[str]:
        """Take `subscription` from topics; return the groups in which it was the last."""
        empty = []
        for group in groups:
            topic = self.topics.get(group)
            if topic is not None:
                topic.subscriptions.discard(subscription)
                if not topic.readers:
                    del self.topics[group]
                    empty.append(group)
        return empty

    async def _quit(self, groups: Collection[str]) -> None:
        await asyncio.gather(*map(self._mailbox.leave, groups))

    async def _listen_to_control(self) -> None:
        """Hear of what is revoked elsewhere, for as long as anybody listens here."""
        if self.heard is None:
            await self._attach(self._control)
        if self.heard is None:
            self._listens_since = self.position(CONTROL_GROUP)
            self._control.move({CONTROL_GROUP: self._listens_since})
            self.services.run("control", lambda: run_patiently(self._control, self))

    @property
    def heard(self) -> Position | None:
        """Up to where this hub has read the control group; None before the first join."""
        return self._control.positions.get(CONTROL_GROUP)

    async def unheard(self, since: Position) -> list[Revocation]:
        """Return what was revoked between `since` and this hub's first join.

        `since` comes from `heard_so_far()`. Later revocations reach this hub by its own
        subscription. If the log no longer has the events, everybody's right is in doubt. Raises
        what the event log raises.
        """
        began = self._listens_since
        found: list[Revocation] = []
        while since.epoch != began.epoch or since.offset < began.offset:
            try:
                events = await self.read(CONTROL_GROUP, since)
            except Discontinuity:
                return [Revocation(review=True)]
            if not events:
                break
            found += filter(None, map(revocation_of, events))
            since = place_of(events[-1]) or began
        return found

    def _deliver(self, event: Event) -> int:
        topic = self.topics.get(event.group)
        if topic is None:
            return 0
        topic.offer(event)
        if topic.is_ill:
            self._healer.soon(event.group)
        if self._sent is None and event.sent is not None:
            # After what the transports do at the end of this turn: they were first to say so.
            self._sent = event.sent
            self.loop.call_soon(self._delivered)
        return topic.readers

    def _delivered(self) -> None:
        """Count how long the first event of this turn was on its way; the others were no longer."""
        assert self._sent is not None
        COUNTS.delivery_seconds.observe(time.time() - self._sent)
        self._sent = None

    # --- what time and other processes bring ---

    async def _sweep(self) -> None:
        """Number what a publisher committed but did not live to number."""
        layer.send(await event_log().anumber())

    async def _prune(self) -> None:
        """Delete what is beyond retention, in steps with pauses: nobody has to wait for it."""
        await database_sync_to_async(leftovers.forget)()
        log = event_log()
        if log.prunes_itself:
            return
        pruned = PRUNE_EVENTS
        while pruned == PRUNE_EVENTS:
            pruned = await log.aprune(PRUNE_EVENTS)
            await asyncio.sleep(PRUNE_PAUSE)

    async def tick(self) -> None:
        """Let every stream do what time asks for."""
        now = time.monotonic()
        for ticker in list(self.tickers):
            try:
                ticker(now)
            except Exception:
                logger.exception("A stream's tick failed; the others have theirs.", extra=about())

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
        await self._starts.close()
        await self.services.close()
        await self._healer.close()
        await self._reads.close()
        await self.snapshots.close()
        self.topics.clear()
        await self._quit(joined)
        await self._mailbox.close()
        await logged(event_log().aclose)


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()
_hearing = SharedTasks()


def get_hub() -> Hub:
    """Return the hub of the running loop, started if there is none."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        hub = _hubs[loop] = Hub()
    return hub


async def heard_so_far() -> Position:
    """Return up to where the running loop's hub has read the control group.

    If no hub listens yet, return the group's head: every later revocation comes after it.
    Raises what the event log raises.
    """
    hub = _hubs.get(asyncio.get_running_loop())
    heard = hub.heard if hub is not None else None
    if heard is not None:
        return heard
    # One read for all who ask meanwhile: an earlier position only means more to read later.
    heads = await _hearing.result_here(partial(read_heads, [CONTROL_GROUP]))
    return heads[CONTROL_GROUP]


def running_hubs() -> Collection[Hub]:
    """Return the hubs of this process."""
    return list(_hubs.values())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_hubs.clear)
    os.register_at_fork(after_in_child=_hearing.forget)
