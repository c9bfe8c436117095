"""`Hub`: one per event loop, with one channel-layer mailbox for all streams of the process.

The hub gets each event once and passes it to the group's `Topic`. The `Healer` reads events from
the log that the layer lost. Other modules register services that run beside each hub. A hub closes
when its last subscription leaves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping
from typing import ClassVar, Final, Protocol, TypeVar
from weakref import WeakKeyDictionary

from ..conf import is_in_memory, settings
from ..eventlog import event_log
from ..protocol.events import Event
from ..protocol.groups import CONTROL_GROUP
from ..runtime.forks import at_fork
from ..runtime.services import Services, SharedTasks, Work, every, logged, spawn
from ..runtime.telemetry import COUNTS
from .feed import Feed
from .healing import GRACE_SECONDS
from .mailbox import Mailbox
from .starts import Starts
from .subscriptions import Subscription
from .topics import Topic

REJOIN_SECONDS: Final = 3600.0
#: A watched log that has not changed is checked after this time. If the rows of processes are in
#: the same file, each write of a row is a change, so the time is longer than the pause between two.
WATCHED_SECONDS: Final = 90.0
OBSERVED_SECONDS: Final = 60.0
#: Streams and cohorts of which `tick()` is called in one loop iteration.
TICKS: Final = 500
#: If the system's clock is set by more than this, times by that clock are computed again.
CLOCK_SECONDS: Final = 0.5

_Service = TypeVar("_Service")

logger = logging.getLogger("sse_app")


class HubService(Protocol):
    """A service that runs beside each hub, see `register_service()`.

    Each hub makes one instance, on its own loop.
    """

    @property
    def name(self) -> str:
        """The name in the log and in `health/`."""

    async def start(self, hub: Hub) -> None:
        """Prepare. The first join waits for this call and raises its errors; the next retries."""

    async def run(self) -> None:
        """Work until cancelled, after `start()`. If this call ends, that is logged and repeated."""

    def close(self) -> None:
        """Release what `start()` took, if it was called. Called once, when the hub closes."""


_kinds: list[type[HubService]] = []


def register_service(kind: type[HubService]) -> None:
    """Run a `kind` beside each hub made from now on; for `apps.ready()`. Safe to call twice."""
    if kind not in _kinds:
        _kinds.append(kind)


class Hub(Feed):
    """Topics, subscriptions and the tasks that serve them. Used on its own loop only."""

    #: Whether the process is about to stop. Set on the class, so for future hubs too.
    draining: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.subscriptions: set[Subscription] = set()
        self._clock_offset = _clock_offset()
        self._closing: asyncio.Task[None] | None = None
        self._sent: float | None = None
        self._registered: dict[type, HubService] = {kind: kind() for kind in _kinds}
        self._unstarted = list(self._registered.values())
        self._starting = SharedTasks()
        self.mailbox = Mailbox(lambda: self.topics, self._deliver, self.check_all)
        self._starts = Starts(self.topics, self.mailbox.memberships, self._healer.soon)
        self._changed = asyncio.Event()
        #: How often the log called, see `EventLog.watch()`.
        self._changes = 0
        self._net_at = self._observed_until = 0.0
        self._stop_watch = event_log().watch(self._on_log_changed)
        self.services = Services()
        for name, work in self._works().items():
            self.services.run(name, work)

    def _works(self) -> Mapping[str, Work]:
        return {
            "receive": self.mailbox.receive,
            "silence": self.mailbox.watch,
            "watch": self._check_on_change,
            "check": lambda: every(check_interval, self._check_unless_watched),
            "rejoin": lambda: every(lambda: REJOIN_SECONDS, self.mailbox.rejoin),
            "tick": lambda: every(tick_interval, self.tick),
        }

    # --- subscriptions ---

    async def join(self, subscription: Subscription) -> None:
        """Start the services that have not started, then `attach()` the subscription.

        The hub closes when the last subscription leaves. Raises errors of the event log or of the
        start of a service, and `RuntimeError` if the hub has closed; the subscription is then in
        no topic, and the next join starts the service again.
        """
        self.subscriptions.add(subscription)
        try:
            if self._unstarted:
                # Concurrent joins share one start.
                await self._starting.result("services", self._start_services)
            await self.attach(subscription)
        except BaseException:
            await self.leave(subscription)
            raise

    async def leave(self, subscription: Subscription) -> None:
        """Remove `subscription`; after the last one, close the hub.

        A caller that is cancelled does not wait, but its groups are left and the hub is closed.
        """
        self.subscriptions.discard(subscription)
        self.behind.discard(subscription.sink)
        self.sending.discard(subscription.sink)
        empty = self._detach(subscription, subscription.groups)
        if self.subscriptions:
            self.mailbox.memberships.leave(empty)
        else:
            await self.close()

    async def drop(self, subscription: Subscription, group: str) -> None:
        """Remove `group` from `subscription`."""
        subscription.drop(group)
        self.mailbox.memberships.leave(self._detach(subscription, [group]))

    def service(self, kind: type[_Service]) -> _Service:
        """Return this hub's own instance of a registered service."""
        found = self._registered[kind]
        assert isinstance(found, kind)
        return found

    async def attach(self, subscription: Subscription) -> None:
        """Add `subscription` to its groups' topics; each then has a position.

        For subscriptions of services, which do not keep the hub open. Raises errors of the event
        log, and `RuntimeError` if the hub has closed.
        """
        if self._closing is not None:
            raise RuntimeError("The hub has closed; get_hub() returns another one.")
        for group in subscription.groups:
            topic = self._topic(group)
            topic.subscriptions.add(subscription)
        await self._starts.started(subscription.groups)

    def _topic(self, group: str) -> Topic:
        if group not in self.topics:
            self.topics[group] = Topic(group, self._budget)
        return self.topics[group]

    def _detach(self, subscription: Subscription, groups: Collection[str]) -> list[str]:
        """Remove `subscription` from topics; return the groups that have no reader any more."""
        empty = []
        for group in groups:
            topic = self.topics.get(group)
            if topic is not None:
                topic.subscriptions.discard(subscription)
                if not topic.readers:
                    self.topics.pop(group).forget_recent()
                    empty.append(group)
        return empty

    async def _start_services(self) -> None:
        """Start the services that have not started yet, and run each from then on."""
        while self._unstarted and self._closing is None:
            service = self._unstarted[0]
            await service.start(self)
            del self._unstarted[0]
            self.services.run(service.name, service.run)

    def _deliver(self, event: Event) -> int:
        topic = self.topics.get(event.group)
        if topic is None:
            return 0
        self._healer.delivered(event.group)
        topic.offer(event)
        if topic.needs_healing:
            self._healer.soon(event.group)
        if self._sent is None and event.sent is not None and event.group != CONTROL_GROUP:
            # Measured with `call_soon`, so after the transports' own flush callbacks, which were
            # scheduled earlier in this loop iteration: the time then includes the write.
            self._sent = event.sent
            self.loop.call_soon(self._delivered)
        return topic.readers

    def _delivered(self) -> None:
        """Observe the delivery time of this loop iteration's first event, which is the longest."""
        assert self._sent is not None
        COUNTS.delivery_seconds.observe(time.time() - self._sent)
        self._sent = None

    # --- time, and changes of the log ---

    async def tick(self) -> None:
        """Call `tick()` of the streams and cohorts that have something to do."""
        if abs(_clock_offset() - self._clock_offset) > CLOCK_SECONDS:
            self._clock_offset = _clock_offset()
            self.timers.hurry()
        self.sending = {sink for sink in self.sending if sink.queue}
        now, more = time.monotonic(), True
        while more:
            more = self.timers.run(now, TICKS)
            await asyncio.sleep(0)

    @property
    def changes(self) -> int | None:
        """A number that changes with the log; None if the log can't notice appends."""
        return self._changes if self._stop_watch else None

    def _on_log_changed(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self._log_changed)
        except RuntimeError:
            pass  # The loop has closed, and `close()` ends this watch.

    def _log_changed(self) -> None:
        self._changes += 1
        self._healer.log_changed()
        self._changed.set()
        self._net_at = time.monotonic() + WATCHED_SECONDS

    def observe_checks(self) -> None:
        """Check the heads for a minute even if the log did not change. From any thread.

        So `health/` learns of reads that hang, before there is a change to read.
        """
        self._observed_until = time.monotonic() + OBSERVED_SECONDS

    async def _check_unless_watched(self) -> None:
        """Check the heads. If the log is watched and did not change, check them rarely."""
        now = time.monotonic()
        watched = self._stop_watch is not None and not self._changed.is_set()
        if watched and self._healer.is_settled and self._observed_until < now < self._net_at:
            self._healer.rest()
            self.checked_at = now
            return
        await self.check()
        self._net_at = time.monotonic() + WATCHED_SECONDS

    async def _check_on_change(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            # Most changes are of this process itself, whose events arrive by the layer meanwhile.
            await asyncio.sleep(GRACE_SECONDS)
            await logged(self._healer.check_changes)

    async def close(self) -> None:
        """Stop all tasks; a later subscription gets another hub. Safe to call twice.

        A caller that is cancelled does not wait, but the hub is closed.
        """
        if self._closing is not None:
            return
        self._closing = spawn(self._close)
        if _hubs.get(self.loop) is self:
            del _hubs[self.loop]
        for service in self._registered.values():
            service.close()
        if self._stop_watch:
            self._stop_watch()
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._starting.close()
        await self._starts.close()
        await self.services.close()
        await self._healer.close()
        await self._log_reader.close()
        await self.snapshots.close()
        self.topics.clear()
        await self.mailbox.memberships.leave_all()
        await self.mailbox.close()
        await logged(event_log().aclose)


def check_interval() -> float:
    """Return the seconds between two checks of the log's heads."""
    interval = settings().CHECK_INTERVAL
    if interval is not None:
        return interval
    return 0.5 if is_in_memory() else 2.0


def tick_interval() -> float:
    """Return the seconds between two ticks of the streams."""
    return min(1.0, settings().HEARTBEAT / 4)


def _clock_offset() -> float:
    return time.time() - time.monotonic()


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def get_hub() -> Hub:
    """Return the hub of the running loop; make it if it does not exist."""
    hub = running_hub()
    if hub is None:
        hub = _hubs[asyncio.get_running_loop()] = Hub()
    return hub


def running_hub() -> Hub | None:
    """Return the hub of the running loop, None if it does not exist."""
    return _hubs.get(asyncio.get_running_loop())


def running_hubs() -> Collection[Hub]:
    """Return the hubs of this process."""
    return list(_hubs.values())


at_fork(_hubs.clear)
