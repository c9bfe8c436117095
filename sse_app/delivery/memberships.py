"""`Memberships`: the groups of one channel on the channel layer.

The wanted groups change while calls of the layer are under way, fail or hang. So one task compares
what is wanted with what the layer is known to have, for the groups that changed, and calls the
layer for many groups at once. A group whose call failed is tried again until the call holds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextvars import Context
from typing import Any, Final

from ..conf import channel_layer, is_in_memory, site_tag
from ..protocol.groups import layer_group
from ..runtime import layer_calls
from ..runtime.callables import contained
from ..runtime.rare_logs import RareLog
from ..runtime.services import spawn
from ..runtime.telemetry import log_fields

#: The pause before failed groups are tried again: the first one, which doubles, and the longest.
RETRY_SECONDS: Final = (0.2, 5.0)
#: How long a group without a reader stays joined: until then one reader may replace another, and
#: the groups that were left meanwhile are left by one call.
LEAVE_SECONDS: Final = 0.5
#: How long a caller waits for a layer that hangs; events then come from the event log.
WAIT_SECONDS: Final = 1.0
#: How long one call may take. channels_redis has no limit of its own with redis-py before 8.
CALL_SECONDS: Final = 10.0

_failed_log = RareLog(logging.getLogger("sse_app"))


class Memberships:
    """Joins and leaves for `channel`, which is None until the layer has given one.

    `groups` returns the wanted groups. On an in-memory layer there is nothing to do, because the
    mailbox is in the one layer group of all groups. Used on one loop only.
    """

    def __init__(self, groups: Callable[[], Collection[str]]) -> None:
        self._groups = groups
        self.channel: str | None = None
        #: The groups that the channel is in (True), or perhaps is in (False).
        self.known: dict[str, bool] = {}
        self._opened = asyncio.Event()
        self._changed: dict[str, None] = {}
        self._later: dict[str, None] = {}
        #: Set when the changes that wait now have been tried.
        self._tried = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pause = RETRY_SECONDS[0]

    def opened(self, channel: str | None) -> None:
        """Note the channel, or None if the layer gave none: then callers do not wait for it."""
        self.channel = channel
        self._opened.set()

    def leave(self, groups: Iterable[str]) -> None:
        """Leave `groups` in the background, if they are still not wanted after `LEAVE_SECONDS`."""
        self._later.update(dict.fromkeys(groups))
        if self._timer is None and self._later:
            self._change_later(LEAVE_SECONDS)

    async def leave_all(self) -> None:
        """Leave all groups that are not wanted; see `settle()`."""
        await self.settle(list(self.known))

    async def settle(self, groups: Collection[str]) -> None:
        """Join or leave each of `groups`, as is wanted when its call begins; never raises.

        After `WAIT_SECONDS` the calls continue in the background, also if the caller is cancelled.
        """
        if groups:
            tried = self._change_soon(groups)
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await tried.wait()
            except TimeoutError:
                pass

    async def join_all(self) -> None:
        """Join all groups again: memberships expire, and a layer may have lost them.

        In portions, so that groups that start meanwhile do not wait for all others.
        """
        if is_in_memory():
            return
        groups = list(dict.fromkeys([*self.known, *self._groups()]))
        for first in range(0, len(groups), layer_calls.PORTION):
            portion = groups[first : first + layer_calls.PORTION]
            self.known.update(dict.fromkeys(portion, False))
            await self.settle(portion)

    async def close(self) -> None:
        """Cancel all calls; `known` then has what the layer may still have."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()

    def _change_soon(self, groups: Iterable[str]) -> asyncio.Event:
        # Noted before the first await, because a caller may be cancelled any time.
        self._changed.update(dict.fromkeys(groups))
        if self._working is None or self._working.done():
            self._working = spawn(self._work)
        return self._tried

    async def _work(self) -> None:
        await self._opened.wait()
        while self._changed:
            groups, self._changed = list(self._changed), {}
            tried, self._tried = self._tried, asyncio.Event()
            try:
                await self._change(groups)
            finally:
                tried.set()

    async def _change(self, groups: list[str]) -> None:
        """Change `groups` in portions; after a portion that failed, the others are tried later."""
        if is_in_memory():
            return
        layer = channel_layer()
        size = layer_calls.portion(layer)
        for first in range(0, len(groups), size):
            portion = groups[first : first + size]
            if self.channel is None:
                return
            if not await self._change_portion(layer, self.channel, portion):
                # At the end, because their calls may fail for ever.
                self._later.update(dict.fromkeys([*groups[first + size :], *portion]))
                self._change_later(random.uniform(self._pause / 2, self._pause))
                self._pause = min(self._pause * 2, RETRY_SECONDS[1])
                return
        self._pause = RETRY_SECONDS[0]

    async def _change_portion(self, layer: Any, channel: str, groups: Collection[str]) -> bool:
        """Join or leave `groups`, as is wanted now; return whether all calls held."""
        wanted, tag = self._groups(), site_tag()
        joins, leaves = {}, {}
        for group in groups:
            if group in wanted and not self.known.get(group):
                joins[layer_group(group, tag)] = group
            elif group not in wanted and group in self.known:
                leaves[layer_group(group, tag)] = group
        # A call that fails may have been done.
        self.known.update(dict.fromkeys([*joins.values(), *leaves.values()], False))
        calls = layer_calls.changes(layer, channel, joins, leaves)
        held = await asyncio.gather(*(_held(call, names) for names, call in calls))
        for (names, _), done in zip(calls, held, strict=True):
            for name in names if done else ():
                if name in joins:
                    self.known[joins[name]] = True
                else:
                    del self.known[leaves[name]]
        return all(held)

    def _change_later(self, seconds: float) -> None:
        """Change the groups that wait in `seconds`, instead of at the time that was set before."""
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._change_now, context=Context())

    def _change_now(self) -> None:
        self._timer = None
        later, self._later = self._later, {}
        self._change_soon(later)


async def _held(call: Callable[[], Awaitable[None]], names: Collection[str]) -> bool:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            with contained():
                await call()
        return True
    except Exception as error:
        _failed_log(
            "Joining or leaving %d group(s) on the channel layer failed (%r) and is tried "
            "again; until then their events come from the event log.",
            len(names),
            error,
            extra=log_fields(groups=names, error=error),
        )
        return False
