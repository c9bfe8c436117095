"""An event log that counts how often it is read, for a server under measurement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import ClassVar

from sse_app.eventlog import DatabaseEventLog
from sse_app.protocol.cursors import Position
from sse_app.protocol.events import Event


class CountingEventLog(DatabaseEventLog):
    """The database log; the async twins come by here too, on their way to a thread."""

    reads: ClassVar[Counter[str]] = Counter()

    def since(self, group: str, after: Position, limit: int) -> list[Event]:
        """See `EventLog.since()`."""
        self.reads["since"] += 1
        self.reads["heads"] -= 1  # the one that belongs to this read
        return super().since(group, after, limit)

    def heads(self, groups: Collection[str]) -> dict[str, Position]:
        """See `EventLog.heads()`."""
        self.reads["heads"] += 1
        return super().heads(groups)
