"""`Mailbox`: the one channel that this process has on the channel layer.

It receives for ever, whatever happens to the layer: a failure is logged, a new channel made, its
groups joined again. What was lost meanwhile is the log's to heal.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Final

from ..conf import channel_layer, site_tag
from ..protocol.events import BATCH_TYPE, MESSAGE_TYPE, Event
from ..protocol.groups import layer_group
from ..runtime.services import spawn
from ..runtime.telemetry import log_fields
from .topics import DELIVERIES

RETRY_SECONDS: Final = (0.2, 5.0)
#: How long anybody waits for a layer that hangs: meanwhile the log alone serves.
WAIT_SECONDS: Final = 1.0
#: Joins and leaves under way at once. channels_redis allows a hundred connections, and a group
#: whose join fails gets no message for an hour.
CALLS: Final = 32
#: Messages in a row that can't be decoded, after which the channel itself is to blame.
UNREADABLE: Final = 100

logger = logging.getLogger("sse_app")


class Mailbox:
    """Calls `deliver` for each event that arrives, and `reopened` whenever some may be missing.

    `deliver` returns to how many it went, so that everything else gets its turn between. `groups`
    says what to be a member of; used on the hub's own loop only.
    """

    def __init__(
        self,
        groups: Callable[[], Collection[str]],
        deliver: Callable[[Event], int],
        reopened: Callable[[], Awaitable[None]],
    ) -> None:
        self._groups = groups
        self._deliver = deliver
        self._reopened = reopened
        self._channel: str | None = None
        self._tried = asyncio.Event()
        self._delivered = 0
        self._changing: set[asyncio.Task[None]] = set()
        self._calls = asyncio.Semaphore(CALLS)

    async def receive(self) -> None:
        """Deliver what arrives, for ever."""
        delay = RETRY_SECONDS[0]
        while True:
            try:
                self._channel = await channel_layer().new_channel()
                self._tried.set()
                await self.join_all()
                await self._reopened()
                while True:
                    message = await _next(self._channel)
                    delay = RETRY_SECONDS[0]
                    await self._deliver_message(message)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self._channel = None
                self._tried.set()
                logger.warning(
                    "Receiving from the channel layer failed (%r); streams go on from the event "
                    "log, next try in %.1f s.",
                    error,
                    delay,
                    extra=log_fields(error=error),
                )
                await asyncio.sleep(random.uniform(delay / 2, delay))
                delay = min(delay * 2, RETRY_SECONDS[1])

    async def join(self, group: str) -> None:
        """Become a member of `group`, in the background if that takes longer; never raises."""
        await self._in_background(self._join, group)

    async def leave(self, group: str) -> None:
        """Be no member of `group` any more, likewise."""
        await self._in_background(self._leave, group)

    async def _in_background(
        self, work: Callable[[str], Coroutine[Any, Any, None]], group: str
    ) -> None:
        task = spawn(work, group)
        self._changing.add(task)
        task.add_done_callback(self._changing.discard)
        await asyncio.wait([task], timeout=WAIT_SECONDS)

    async def _join(self, group: str) -> None:
        await self._tried.wait()
        await self._call("group_add", group)
        if group not in self._groups():  # The last reader left while the layer took its time.
            await self._leave(group)

    async def _leave(self, group: str) -> None:
        await self._call("group_discard", group)
        if group in self._groups():  # Somebody came meanwhile, and may have been joined before.
            await self._call("group_add", group)

    async def close(self) -> None:
        """Give up what still waits for the layer."""
        for task in self._changing:
            task.cancel()
        await asyncio.gather(*self._changing, return_exceptions=True)

    async def join_all(self) -> None:
        """Join all groups anew: membership lapses, and a new channel is in no group."""
        for group in list(self._groups()):
            await self._call("group_add", group)

    async def _call(self, name: str, group: str) -> None:
        async with self._calls:
            # Meanwhile the last reader may have left, or another one come.
            is_due = (group in self._groups()) == (name == "group_add")
            if self._channel is not None and is_due:
                await self._change(name, group, self._channel)

    async def _change(self, name: str, group: str, channel: str) -> None:
        try:
            call = getattr(channel_layer(), name)
            await call(layer_group(group, site_tag()), channel)
        except Exception as error:
            logger.warning(
                "%s of group %s failed (%r); the log serves it.",
                name,
                group,
                error,
                extra=log_fields(group=group, error=error),
            )

    async def _deliver_message(self, message: Any) -> None:
        """Deliver what one message holds; anything malformed is logged and skipped."""
        try:
            events = _events_of(message)
        except (TypeError, ValueError, AttributeError) as error:
            logger.warning(
                "Skipped a malformed message on the channel layer: %s",
                error,
                extra=log_fields(error=error),
            )
            return
        for event in events:
            self._delivered += self._deliver(event)
            if self._delivered >= DELIVERIES:
                self._delivered = 0
                await asyncio.sleep(0)


async def _next(channel: str | None) -> Any:
    """Return the next message that can be decoded; the others are logged and skipped.

    A new channel for each of them would be a gap for everybody, and what the pub/sub layer queues
    for the old one is never taken.
    """
    skipped = 0
    while True:
        try:
            return await channel_layer().receive(channel)
        except ValueError as error:
            skipped += 1
            if skipped == UNREADABLE:
                raise
            logger.warning(
                "Skipped a message that is none of the channel layer's: %r",
                error,
                extra=log_fields(error=error),
            )


def _events_of(message: Any) -> list[Event]:
    kind = message.get("type")
    parts = message.get("events") if kind == BATCH_TYPE else [message]
    if kind not in (MESSAGE_TYPE, BATCH_TYPE) or not isinstance(parts, list):
        raise ValueError(f"the type is {kind!r}, not {MESSAGE_TYPE!r}")
    return [part if isinstance(part, Event) else Event.from_message(part) for part in parts]
