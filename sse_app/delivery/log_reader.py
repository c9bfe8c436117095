"""Reading the event log for many streams at once: one read for all who ask for the same."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

from ..eventlog import event_log
from ..protocol.cursors import Position
from ..protocol.events import Event
from ..runtime.services import SharedTasks

PAGE_EVENTS: Final = 500
#: What stays in memory for those who come back a moment later: after a restart, many do.
KEPT_PAGES: Final = 32
KEPT_BYTES: Final = 4 * 1024 * 1024
KEPT_SECONDS: Final = 10.0

_Page = tuple[str, Position]


class LogReader:
    """Reads of the log, shared among all who wait for the same one, and for a moment after.

    A cancelled reader never cancels the read: others may wait for it.
    """

    def __init__(self) -> None:
        self._running = SharedTasks()
        self._pages: OrderedDict[_Page, tuple[float, list[Event]]] = OrderedDict()
        self._bytes = 0

    async def page(self, group: str, after: Position) -> list[Event]:
        """Return the run right after `after`; raises `Discontinuity` as `EventLog.since()` does.

        A run that was read before is a right answer for as long as the log is the same, though
        more may follow by now.
        """
        self._forget_old()
        kept = self._pages.get((group, after))
        if kept is not None:
            return kept[1]
        read = await self._running.result(
            ("page", group, after), lambda: event_log().asince(group, after, PAGE_EVENTS)
        )
        if read and (group, after) not in self._pages:
            self._pages[group, after] = time.monotonic(), read
            self._bytes += _size(read)
        return read

    async def earliest(self, group: str) -> Position:
        """Return the position before the first event that is still there."""
        return await self._running.result(("earliest", group), lambda: event_log().aearliest(group))

    async def began(self) -> float:
        """Return the Unix time since which the log is the same."""
        return await self._running.result("began", event_log().abegan)

    def forget(self, group: str) -> None:
        """Keep nothing of `group`: its log is another one now."""
        for page in [page for page in self._pages if page[0] == group]:
            self._drop(page)

    async def close(self) -> None:
        """Cancel what is being read and wait for its end."""
        await self._running.close()

    def _forget_old(self) -> None:
        before = time.monotonic() - KEPT_SECONDS
        while self._pages:
            page, (at, _) = next(iter(self._pages.items()))
            if at > before and len(self._pages) <= KEPT_PAGES and self._bytes <= KEPT_BYTES:
                break
            self._drop(page)

    def _drop(self, page: _Page) -> None:
        _, events = self._pages.pop(page)
        self._bytes -= _size(events)


def _size(events: list[Event]) -> int:
    return sum(len(event.block) for event in events)
