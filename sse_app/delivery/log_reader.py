"""`LogReader`: reads of the event log that many streams share."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from ..eventlog import event_log
from ..eventlog.contract import Outcome, Read
from ..protocol.cursors import Position
from ..protocol.events import Event
from ..runtime.batches import Batches
from ..runtime.services import SharedTasks
from .recent import cost

PAGE_EVENTS: Final = 500
#: How much stays in memory for later readers: after a restart, many clients reconnect with the
#: same cursor.
KEPT_PAGES: Final = 32
KEPT_BYTES: Final = 4 * 1024 * 1024
KEPT_SECONDS: Final = 10.0

#: After a restart most clients are a few events behind, in groups of their own: up to so many
#: events, the reads of many clients are one read of the log.
FEW_EVENTS: Final = 10


class LogReader:
    """Shares each read among all callers of the same read, and keeps pages for `KEPT_SECONDS`.

    A cancelled caller does not cancel the read, because other callers may wait for it.
    """

    def __init__(self) -> None:
        self._running = SharedTasks()
        self._few = Batches(_few)
        self._pages: OrderedDict[Read, tuple[float, list[Event]]] = OrderedDict()
        self._bytes = 0

    async def page(self, group: str, after: Position, behind: int) -> list[Event]:
        """Return the events after `after`; raises `Discontinuity` as `EventLog.since()` does.

        `behind`: how many events the log has after `after`, as far as this process knows. A kept
        page stays correct until `forget()`, although more events may follow by now.
        """
        self._forget_old()
        kept = self._pages.get((group, after))
        if kept is not None:
            return kept[1]
        if 0 < behind <= FEW_EVENTS:
            read = await self._running.result(
                ("few", group, after), lambda: self._few.result((group, after))
            )
        else:
            read = await self._running.result(
                ("page", group, after), lambda: event_log().asince(group, after, PAGE_EVENTS)
            )
        if read and (group, after) not in self._pages:
            self._pages[group, after] = time.monotonic(), read
            self._bytes += _size(read)
        return read

    async def earliest(self, group: str) -> Position:
        """Return the position before the first event that the log still has."""
        return await self._running.result(("earliest", group), lambda: event_log().aearliest(group))

    def forget(self, group: str) -> None:
        """Drop the kept pages of `group`, because its log was replaced."""
        for page in [page for page in self._pages if page[0] == group]:
            self._drop(page)

    async def close(self) -> None:
        """Cancel all reads and wait for their ends."""
        await self._running.close()

    def _forget_old(self) -> None:
        before = time.monotonic() - KEPT_SECONDS
        while self._pages:
            page, (at, _) = next(iter(self._pages.items()))
            if at > before and len(self._pages) <= KEPT_PAGES and self._bytes <= KEPT_BYTES:
                break
            self._drop(page)

    def _drop(self, page: Read) -> None:
        _, events = self._pages.pop(page)
        self._bytes -= _size(events)


async def _few(reads: Sequence[Read]) -> list[Outcome]:
    return await event_log().asince_each(reads, FEW_EVENTS)


def _size(events: list[Event]) -> int:
    return sum(map(cost, events))
