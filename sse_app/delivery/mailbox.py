"""`Mailbox`: the one channel that a hub has on the channel layer.

The mailbox never stops to receive. When the layer fails, the failure is logged, a new channel is
made, and its groups are joined again. Events that were lost meanwhile are read from the event log.
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
#: How long a caller waits for a layer that hangs; events then come from the event log.
WAIT_SECONDS: Final = 1.0
#: Concurrent joins and leaves. channels_redis allows a hundred connections, and a group whose join
#: fails gets no messages until the next rejoin, an hour later.
CALLS: Final = 32
#: After this many messages in a row that can't be decoded, the channel itself is replaced.
UNREADABLE: Final = 100

logger = logging.getLogger("sse_app")


class Mailbox:
    """Calls `deliver` for each event that arrives, and `reopened` when events may be missing.

    `deliver` returns the number of readers, so that the mailbox can let other tasks run after
    many deliveries. `groups` returns the groups to join. Used on the hub's own loop only.
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
        """Deliver events until cancelled."""
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
                    "Receiving from the channel layer failed (%r); streams continue from the event "
                    "log, next try in %.1f s.",
                    error,
                    delay,
                    extra=log_fields(error=error),
                )
                await asyncio.sleep(random.uniform(delay / 2, delay))
                delay = min(delay * 2, RETRY_SECONDS[1])

    async def join(self, group: str) -> None:
        """Join `group` on the layer, after `WAIT_SECONDS` in the background; never raises."""
        await self._in_background(self._join, group)

    async def leave(self, group: str) -> None:
        """Leave `group` on the layer, see `join()`."""
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
        if group not in self._groups():  # The last reader left during the call.
            await self._leave(group)

    async def _leave(self, group: str) -> None:
        await self._call("group_discard", group)
        if group in self._groups():  # A reader came; this may have undone its join.
            await self._call("group_add", group)

    async def close(self) -> None:
        """Cancel the calls that still wait for the layer."""
        for task in self._changing:
            task.cancel()
        await asyncio.gather(*self._changing, return_exceptions=True)

    async def join_all(self) -> None:
        """Join all groups again, because membership expires and a new channel has no groups."""
        for group in list(self._groups()):
            await self._call("group_add", group)

    async def _call(self, name: str, group: str) -> None:
        async with self._calls:
            # While this call waited, the last reader may have left, or a new reader may have come.
            is_due = (group in self._groups()) == (name == "group_add")
            if self._channel is not None and is_due:
                await self._change(name, group, self._channel)

    async def _change(self, name: str, group: str, channel: str) -> None:
        try:
            call = getattr(channel_layer(), name)
            await call(layer_group(group, site_tag()), channel)
        except Exception as error:
            logger.warning(
                "%s of group %s failed (%r); its events come from the event log.",
                name,
                group,
                error,
                extra=log_fields(group=group, error=error),
            )

    async def _deliver_message(self, message: Any) -> None:
        """Deliver the events of one message; a malformed message is logged and skipped."""
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
    """Return the next message that can be decoded; other messages are logged and skipped.

    They do not lead to a new channel: that would be a gap for all streams, and the pub/sub layer
    would keep the queue of the old channel.
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
                "Skipped a message that the channel layer can't decode: %r",
                error,
                extra=log_fields(error=error),
            )


def _events_of(message: Any) -> list[Event]:
    kind = message.get("type")
    parts = message.get("events") if kind == BATCH_TYPE else [message]
    if kind not in (MESSAGE_TYPE, BATCH_TYPE) or not isinstance(parts, list):
        raise ValueError(f"the type is {kind!r}, not {MESSAGE_TYPE!r}")
    return [part if isinstance(part, Event) else Event.from_message(part) for part in parts]
