"""`Memberships`: the groups of one channel on the channel layer.

The wanted groups change while calls of the layer are under way, fail or hang. So each group has at
most one task, which compares what is wanted with what the layer is known to have, until they are
the same. A group whose call failed is tried again until the call holds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection
from typing import Final

from ..conf import channel_layer, site_tag
from ..protocol.groups import layer_group
from ..runtime.callables import contained
from ..runtime.rare_logs import RareLog
from ..runtime.services import spawn
from ..runtime.telemetry import log_fields

#: The pause before failed groups are tried again: the first one, which doubles, and the longest.
RETRY_SECONDS: Final = (0.2, 5.0)
#: How long a caller waits for a layer that hangs; events then come from the event log.
WAIT_SECONDS: Final = 1.0
#: How long one call may take. channels_redis has no limit of its own with redis-py before 8.
CALL_SECONDS: Final = 10.0
#: Concurrent calls. channels_redis allows a hundred connections.
CALLS: Final = 32

_failed_log = RareLog(logging.getLogger("sse_app"))


class Memberships:
    """Joins and leaves for `channel`, which is None until the layer has given one.

    `groups` returns the wanted groups. Used on one loop only.
    """

    def __init__(self, groups: Callable[[], Collection[str]]) -> None:
        self._groups = groups
        self.channel: str | None = None
        #: The groups that the channel is in (True), or perhaps is in (False).
        self.known: dict[str, bool] = {}
        self._opened = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, None] = {}
        self._retrying: asyncio.Task[None] | None = None
        self._calls = asyncio.Semaphore(CALLS)

    def opened(self, channel: str | None) -> None:
        """Note the channel, or None if the layer gave none: then callers do not wait for it."""
        self.channel = channel
        self._opened.set()

    async def settle(self, groups: Collection[str]) -> None:
        """Join or leave each of `groups`, as is wanted when its call begins; never raises.

        After `WAIT_SECONDS` the calls continue in the background, also if the caller is cancelled.
        """
        # Started before the first await, because a caller may be cancelled any time.
        tasks = [self._start(group) for group in groups]
        if tasks:
            await asyncio.wait(tasks, timeout=WAIT_SECONDS)

    async def join_all(self) -> None:
        """Join all groups again: memberships expire, and a layer may have lost them.

        One group after another; from the first one that fails on, they are tried again later.
        """
        for group in [*self.known, *self._groups()]:
            self.known[group] = False
            self._failed[group] = None
        if not await self._try_failed():
            self._retry_later()

    async def close(self) -> None:
        """Cancel all calls; `known` then has what the layer may still have."""
        tasks = [*self._tasks.values(), *([self._retrying] if self._retrying else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, group: str) -> asyncio.Task[None]:
        task = self._tasks.get(group)
        if task is None or task.done():
            task = self._tasks[group] = spawn(self._settle, group)
            task.add_done_callback(lambda done: self._ended(group, done))
        return task

    def _ended(self, group: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(group) is task:
            del self._tasks[group]

    def _is_settled(self, group: str) -> bool:
        return self.known.get(group) is (True if group in self._groups() else None)

    async def _settle(self, group: str) -> None:
        await self._opened.wait()
        while not self._is_settled(group) and self.channel is not None:
            async with self._calls:
                # While this task waited, the last reader may have left, or a new one may have come.
                if not self._is_settled(group) and not await self._change(group, self.channel):
                    self._failed[group] = None
                    self._retry_later()
                    return

    async def _change(self, group: str, channel: str) -> bool:
        """Join or leave `group`, as is wanted now; return whether the call held."""
        wanted = group in self._groups()
        name = "group_add" if wanted else "group_discard"
        failed_before = self.known.get(group) is False
        self.known[group] = False  # A call that fails may have been done.
        layer, layer_name = channel_layer(), layer_group(group, site_tag())
        try:
            async with asyncio.timeout(CALL_SECONDS):
                with contained():
                    if failed_before and not wanted:
                        # After a `group_discard()` that failed, the pub/sub layer has forgotten the
                        # group and keeps its subscription: the next one would do nothing.
                        await layer.group_add(layer_name, channel)
                    await getattr(layer, name)(layer_name, channel)
        except Exception as error:
            _failed_log(
                "%s of group %s failed (%r) and is tried again; until then its events come from "
                "the event log.",
                name,
                group,
                error,
                extra=log_fields(group=group, error=error),
            )
            return False
        if wanted:
            self.known[group] = True
        else:
            del self.known[group]
        return True

    def _retry_later(self) -> None:
        if self._retrying is None or self._retrying.done():
            self._retrying = spawn(self._retry)

    async def _retry(self) -> None:
        pause = RETRY_SECONDS[0]
        while self._failed:
            await asyncio.sleep(random.uniform(pause / 2, pause))
            held = self.channel is not None and await self._try_failed()
            pause = RETRY_SECONDS[0] if held else min(pause * 2, RETRY_SECONDS[1])

    async def _try_failed(self) -> bool:
        """Try the failed groups, one after another, until one fails; return whether all held."""
        for group in list(self._failed):
            self._failed.pop(group, None)
            await asyncio.wait([self._start(group)])
            if group in self._failed:
                return False
        return True
