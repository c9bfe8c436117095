"""`Mailbox`: one channel on the channel layer, its groups and what it receives.

The mailbox never stops to receive. When the layer fails, the failure is logged, and the groups are
joined again. A layer that is silent gets a message of the mailbox to itself, because a connection
that a firewall has forgotten gives no error. Events that were lost meanwhile are read from the
event log.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from ..conf import channel_layer, is_in_memory, site_tag
from ..protocol.events import BATCH_TYPE, MESSAGE_TYPE, Event
from ..protocol.groups import CONTROL_GROUP, layer_group, shared_group, validate_full
from ..runtime import layer_calls
from ..runtime.rare_logs import RareLog
from ..runtime.services import logged, spawn
from ..runtime.telemetry import log_fields
from .memberships import CALL_SECONDS, RETRY_SECONDS, WAIT_SECONDS, Memberships
from .topics import DELIVERIES

#: After this many messages in a row that can't be decoded, the layer is treated as failed.
UNREADABLE: Final = 100
#: After this many seconds without a message the mailbox sends one to itself, and then waits so many
#: seconds for any message.
SILENT_SECONDS: Final = 10.0
ARRIVAL_SECONDS: Final = 5.0
PROBE_TYPE: Final = "sse.probe"

logger = logging.getLogger("sse_app")
_failed_log = RareLog(logger)


class Silent(ConnectionError):
    """Raised if no message arrives, not even one that the mailbox has sent to itself."""


class Mailbox:
    """Calls `deliver` for each event that arrives, and `reopened` when events may be missing.

    `deliver` returns the number of readers, so that the mailbox can let other tasks run after
    many deliveries. `groups` returns the groups to join. Used on its own loop only.
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
        self.memberships = Memberships(groups)
        self._channel: str | None = None
        self._probe_group = layer_group(f"probe.{secrets.token_hex(6)}", site_tag())
        self._probes: dict[str, asyncio.Future[None]] = {}
        self._tried = asyncio.Event()
        self._error: Exception | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._heard = 0.0
        self._delivered = 0

    async def receive(self) -> None:
        """Deliver events until cancelled."""
        pause = RETRY_SECONDS[0]
        while True:
            began = time.monotonic()
            self._receiving = spawn(self._receive)
            try:
                await self._receiving
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                error: Exception = Silent("no message arrives")
            except Exception as failure:
                error = failure
            if self._heard > began:
                pause = RETRY_SECONDS[0]
            self._failed(error)
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, RETRY_SECONDS[1])

    async def watch(self) -> None:
        """Test a silent layer until cancelled; one that stays silent is connected to again."""
        while True:
            await asyncio.sleep(SILENT_SECONDS)
            is_silent = time.monotonic() - self._heard >= SILENT_SECONDS
            if not is_silent or self._error is not None:
                continue
            if is_in_memory():
                # Where one message expired, that layer removes the channel from all groups.
                await self._join_own()
            else:
                await self._test(channel_layer())

    async def rejoin(self) -> None:
        """Join all groups again before the memberships expire."""
        await self._join_own()
        await self.memberships.join_all()

    async def probe(self) -> float:
        """Send a message through the layer to this mailbox; return the seconds until it arrived.

        Raises the layer's exceptions, also the one for which the mailbox does not receive.
        """
        began = time.perf_counter()
        await self._tried.wait()
        if self._error is not None:
            raise self._error
        token = secrets.token_hex(6)
        arrival = self._probes[token] = asyncio.get_running_loop().create_future()
        try:
            await channel_layer().group_send(self._probe_group, {"type": PROBE_TYPE, "id": token})
            await arrival
        finally:
            del self._probes[token]
        return time.perf_counter() - began

    async def close(self) -> None:
        """Cancel all calls, and leave the mailbox's own groups. Call it after `receive()` ended.

        If the layer does not answer, its connections are closed: each group that is still joined
        costs the layer a subscription.
        """
        await self.memberships.close()
        if self._channel is None:
            return
        target, own = channel_layer(), self._own_groups()
        left = [layer_group(group, site_tag()) for group in self.memberships.known]
        try:
            if left:
                raise Silent("the layer did not answer for the other groups")
            async with asyncio.timeout(WAIT_SECONDS):
                for name in own:
                    await target.group_discard(name, self._channel)
            is_left = self.memberships.channel is not None
        except Exception:
            is_left = False
        if not is_left:
            await layer_calls.forget(target, self._channel, [*own, *left])

    # --- receiving ---

    async def _receive(self) -> None:
        async with asyncio.timeout(CALL_SECONDS):
            await self._open()
        await self.memberships.join_all()
        await self._reopened()
        assert self._channel is not None
        while True:
            message = await _next(self._channel)
            self._heard = time.monotonic()
            await self._deliver_message(message)

    async def _open(self) -> None:
        """Open the channel; after a failure the same channel, so that the layer keeps only one."""
        target = channel_layer()
        if self._channel is None:
            self._channel = layer_calls.channel_name(target)
        self._channel = await layer_calls.open_channel(target, self._channel)
        await self._join_own()
        self.memberships.opened(self._channel)
        self._error = None
        self._tried.set()

    def _own_groups(self) -> list[str]:
        """Return the layer groups that the mailbox is always in."""
        return [self._probe_group, *([shared_group(site_tag())] if is_in_memory() else ())]

    async def _join_own(self) -> None:
        for name in self._own_groups():
            await channel_layer().group_add(name, self._channel)

    def _failed(self, error: Exception) -> None:
        self._error = error
        self.memberships.opened(None)
        self._tried.set()
        _failed_log(
            "Receiving from the channel layer failed (%r); streams continue from the event log, "
            "and the layer is tried again.",
            error,
            extra=log_fields(error=error),
        )

    async def _test(self, target: Any) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(ARRIVAL_SECONDS):
                await self.probe()
        except Exception as error:
            if self._heard >= began or self._error is not None:
                return
            _failed_log(
                "The channel layer is silent (%r); it is connected to again.",
                error,
                extra=log_fields(error=error),
            )
            if await layer_calls.reconnect(target):
                await logged(self._reopened)
            elif self._receiving is not None:
                self._receiving.cancel()

    async def _deliver_message(self, message: Any) -> None:
        """Deliver the events of one message; a malformed message is logged and skipped."""
        try:
            if message.get("type") == PROBE_TYPE:
                self._arrived(message.get("id"))
                return
            events = self._events_of(message)
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

    def _events_of(self, message: Any) -> list[Event]:
        """Return the events of a message; none if no group of them has readers.

        Such events are dropped before they are validated.
        """
        kind = message.get("type")
        parts = message.get("events") if kind == BATCH_TYPE else [message]
        if kind not in (MESSAGE_TYPE, BATCH_TYPE) or not isinstance(parts, list):
            raise ValueError(f"the type is {kind!r}, not {MESSAGE_TYPE!r}")
        wanted = self._groups()
        groups = [part.group if isinstance(part, Event) else part.get("group") for part in parts]
        if not any(group in wanted for group in groups):
            for group in groups:
                if group != CONTROL_GROUP:
                    validate_full(group)
            return []
        return [part if isinstance(part, Event) else Event.from_message(part) for part in parts]

    def _arrived(self, token: Any) -> None:
        arrival = self._probes.get(token)
        if arrival is not None and not arrival.done():
            arrival.set_result(None)


async def _next(channel: str) -> Any:
    """Return the next message that can be decoded; other messages are logged and skipped.

    They do not count as a failure of the layer: that would be a gap for all streams.
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
