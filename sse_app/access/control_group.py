"""`ControlGroup`: for each hub, reads revocations and replies that other processes publish."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final

from ..delivery.hub import Hub, running_hub
from ..delivery.sinks import Sink
from ..delivery.starts import read_heads
from ..delivery.subscriptions import Subscription, run_with_retries
from ..eventlog import Discontinuity
from ..eventlog.contract import Reason
from ..protocol.cursors import START, Position
from ..protocol.events import Event
from ..protocol.groups import CONTROL_GROUP
from ..protocol.replies import REPLY_EVENT, Reply
from ..publishing.waking import WAKE_EVENT
from ..runtime.duties import DUTIES
from ..runtime.forks import at_fork
from ..runtime.services import SharedTasks
from ..runtime.telemetry import log_fields
from . import readers
from .revocations import Revocation, log_malformed, revocation_of

#: The time from the close of a hub to the call of the duties.
WAKE_SECONDS: Final = 0.05

logger = logging.getLogger("sse_app")


class ControlSink(Sink):
    """Applies the events of the control group to the streams of one hub."""

    @property
    def ready(self) -> bool:
        return True

    async def drained(self) -> None:
        """Return immediately: this sink is always ready."""

    def show(self, event: Event, cursor: str, block: bytes) -> None:
        if event.name == REPLY_EVENT:
            try:
                readers.deliver_reply(Reply.from_event(event))
            except (TypeError, ValueError) as error:
                log_malformed(error)
        elif event.name == WAKE_EVENT:
            DUTIES.wake()
        elif (revocation := revocation_of(event)) is not None:
            readers.apply(revocation)

    def reset(self, group: str, reason: Reason, cursor: str) -> None:
        logger.warning(
            "Revocations may have been missed (%s): the rights of all streams are checked.",
            reason,
            extra=log_fields(reason=reason),
        )
        readers.apply(Revocation(review=True))
        DUTIES.wake()

    def passed(self, cursor: str) -> None:
        """Do nothing: this sink filters no events."""


class ControlGroup:
    """A service of the hub, see `HubService`. The hub serves no stream before `start()` ends."""

    name: Final = "control"

    def __init__(self) -> None:
        self._subscription = Subscription(ControlSink(), [CONTROL_GROUP])
        self._hub: Hub | None = None
        self._began = START

    async def start(self, hub: Hub) -> None:
        """Subscribe at the head of the control group. Raises the errors of the event log."""
        await hub.attach(self._subscription)
        self._hub, self._began = hub, hub.position(CONTROL_GROUP)
        self._subscription.positions.update({CONTROL_GROUP: self._began})
        # From now on this process is woken, and has streams.
        DUTIES.wake()

    async def run(self) -> None:
        """Read until cancelled; another run continues where this one ended."""
        assert self._hub is not None
        await run_with_retries(self._subscription, self._hub)

    def close(self) -> None:
        """Wake the duties: from now on this process gets no event that wakes them."""
        # By a timer: if the loop ends now, a task would be pending, and asyncio complains of that.
        asyncio.get_running_loop().call_later(WAKE_SECONDS, DUTIES.wake)

    @property
    def position(self) -> Position | None:
        """The position up to which the group has been read here; None before `start()`."""
        return self._subscription.positions.get(CONTROL_GROUP)

    async def missed(self, since: Position) -> list[Revocation]:
        """Return the revocations after `since` and before `start()`.

        `since` comes from `read_control_position()`. Later revocations reach the hub by this
        service. If the log no longer has the events, every right is in doubt: then one revocation
        asks for a review of all. Raises the errors of the event log.
        """
        assert self._hub is not None
        found: list[Revocation] = []
        while since.epoch != self._began.epoch or since.offset < self._began.offset:
            try:
                events = await self._hub.read(CONTROL_GROUP, since)
            except Discontinuity:
                return [Revocation(review=True)]
            if not events:
                break
            found += filter(None, map(revocation_of, events))
            since = events[-1].position or self._began
        return found


_reading = SharedTasks()


async def read_control_position() -> Position:
    """Return the position up to which the running loop's hub has read the control group.

    Without a hub that reads the group, return the group's head: every later revocation comes after
    the head. Raises the errors of the event log.
    """
    hub = running_hub()
    position = hub.service(ControlGroup).position if hub is not None else None
    if position is not None:
        return position
    # Concurrent callers share one read: an earlier position only means more events to read later.
    heads = await _reading.result_here(partial(read_heads, [CONTROL_GROUP]))
    return heads[CONTROL_GROUP]


at_fork(_reading.forget)
