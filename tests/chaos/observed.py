"""A database log that notes every reading of the heads: the server's own account of its checks."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping

from sse_app.eventlog import DatabaseEventLog
from sse_app.eventlog.contract import Changes
from sse_app.protocol.cursors import Position


class ObservedLog(DatabaseEventLog):
    """Adds one line to the file `facts` for each reading of the heads: when, and what it found."""

    def __init__(self, facts: str, alias: str = "default") -> None:
        super().__init__(alias)
        self._facts = facts

    async def aheads(self, groups: Collection[str]) -> dict[str, Position]:
        """See `EventLog.heads()`."""
        heads = await super().aheads(groups)
        self._note(heads)
        return heads

    async def achanges(
        self, since: object, groups: Collection[str], also: Collection[str] = ()
    ) -> Changes:
        """See `EventLog.changes()`."""
        changes = await super().achanges(since, groups, also)
        self._note(changes.heads or {})
        return changes

    def _note(self, heads: Mapping[str, Position]) -> None:
        offsets = {group: head.offset for group, head in heads.items()}
        with open(self._facts, "a") as facts:
            facts.write(json.dumps([time.monotonic(), offsets]) + "\n")
