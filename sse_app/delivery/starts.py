"""`Starts`: gives topics their first positions, by one read of the log for many groups.

After a restart of the server thousands of groups start; a read for each group would need as many
database connections.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping
from typing import Final

from ..eventlog import event_log
from ..protocol.cursors import Position
from ..runtime.callables import contained
from ..runtime.services import spawn
from .memberships import Memberships
from .topics import Topic

#: Groups whose heads are read by one call.
PORTION: Final = 500
#: A read that fails is repeated for this time, after pauses that begin with `PAUSE_SECONDS` and
#: double.
RETRY_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.05


class Starts:
    """Starts topics without a position. Used on the hub's own loop only.

    The groups of one loop iteration join the channel layer together. Then one task reads the heads
    of all joined groups, at most `PORTION` at a time; groups that join during a read are in the
    next one. A cancelled caller does not cancel a start, because other readers may wait for it.
    """

    def __init__(
        self, topics: Mapping[str, Topic], memberships: Memberships, heal: Callable[[str], object]
    ) -> None:
        self._topics = topics
        self._memberships = memberships
        self._heal = heal
        self._starting: dict[str, asyncio.Future[None]] = {}
        self._new: list[str] = []
        self._joined: list[str] = []
        self._joining: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[None] | None = None

    async def started(self, groups: Collection[str]) -> None:
        """Return when the topics of `groups` have positions; raises errors of the event log."""
        starting = [
            self._starting.get(group) or self._start(group)
            for group in groups
            if self._topics[group].position is None
        ]
        for start in starting:
            await asyncio.shield(start)

    async def close(self) -> None:
        """Cancel all starts, and the callers that wait for them."""
        self._new.clear()
        tasks = [*self._joining, *([self._reading] if self._reading else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for start in self._starting.values():
            start.cancel()

    def _start(self, group: str) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        start = self._starting[group] = loop.create_future()
        self._new.append(group)
        if len(self._new) == 1:
            loop.call_soon(self._begin)
        return start

    def _begin(self) -> None:
        groups, self._new = self._new, []
        task = spawn(self._join, groups)
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _join(self, groups: list[str]) -> None:
        """Join the groups on the layer, then read their heads: events in between are kept."""
        await self._memberships.settle(groups)
        self._joined += groups
        if self._reading is None:
            self._reading = spawn(self._read)

    async def _read(self) -> None:
        try:
            while self._joined:
                groups, self._joined = self._joined[:PORTION], self._joined[PORTION:]
                try:
                    with contained():
                        heads = await read_heads(groups)
                    for group in groups:
                        self._set_position(group, heads[group])
                except Exception as error:
                    self._fail(groups, error)
        finally:
            self._reading = None

    def _set_position(self, group: str, head: Position) -> None:
        # During the read the last reader may have left, and a new reader may have made a new topic.
        topic = self._topics.get(group)
        if topic is not None and topic.position is None:
            topic.start(head)
            if topic.needs_healing:
                self._heal(group)
        self._starting.pop(group).set_result(None)

    def _fail(self, groups: Collection[str], error: Exception) -> None:
        for group in groups:
            start = self._starting.pop(group, None)
            if start is not None:
                start.set_exception(error)
                start.exception()  # Retrieved, as all waiting readers may have been cancelled.


async def read_heads(groups: Collection[str]) -> dict[str, Position]:
    """See `EventLog.heads()`; a read that fails is repeated for `RETRY_SECONDS`."""
    loop = asyncio.get_running_loop()
    pause, until = PAUSE_SECONDS, loop.time() + RETRY_SECONDS
    while True:
        try:
            return await event_log().aheads(groups)
        except Exception:
            if loop.time() + pause > until:
                raise
        await asyncio.sleep(random.uniform(pause / 2, pause))
        pause *= 2
