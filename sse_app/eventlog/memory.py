"""The log in the memory of one process: a lock, and a deque per group. A restart is a new epoch."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import ClassVar

from ..conf import settings
from ..protocol.cursors import START, Position
from ..protocol.events import Event
from ..runtime.forks import at_fork
from .contract import (
    HEAD_RETENTION_FACTOR,
    Changes,
    Discontinuity,
    EventLog,
    check_chain,
    has_events_after,
    most_changes,
    new_epoch,
    new_mark,
)
from .retention import retained_count, retention_seconds


@dataclass
class _Log:
    epoch: str
    head: int = 0
    mark: str = ""
    changed_at: float = 0.0
    change: int = 0
    events: deque[tuple[float, Event]] = field(default_factory=deque)

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.head, self.mark)

    @property
    def first(self) -> int:
        return self.head - len(self.events) + 1

    def trim(self, count: int, before: float, least: int, most: int | None = None) -> int:
        trimmed = 0
        while len(self.events) > least and (len(self.events) > count or self.events[0][0] < before):
            if trimmed == most:
                break
            self.events.popleft()
            trimmed += 1
        return trimmed


class MemoryEventLog(EventLog):
    """Stores events in this process only; for tests, and for demos with one process."""

    shared: ClassVar[bool] = False

    def __init__(self) -> None:
        self._reset()
        # After a fork the child's log has other events, so it needs other epochs.
        at_fork(self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._start = START._replace(mark=new_mark())
        #: The log that changed last is the last one, and its `change` is the number of changes.
        self._logs: OrderedDict[str, _Log] = OrderedDict()
        self._changes = 0

    def append(self, events: Sequence[Event]) -> list[Event]:
        now = time.time()
        keep, before = settings().RETENTION_EVENTS, now - retention_seconds()
        numbered = []
        with self._lock:
            for event in events:
                log = self._logs.get(event.group)
                if log is None:
                    log = self._logs[event.group] = _Log(new_epoch(), mark=self._start.mark)
                event = event.following(log.position, new_mark())
                log.changed_at = now
                log.events.append((now, event))
                log.head, log.mark = log.head + 1, event.mark
                numbered.append(event)
            for group in {event.group for event in numbered}:
                self._note_change(group)
                self._logs[group].trim(keep, before, retained_count(group))
        return numbered

    async def aappend(self, events: Sequence[Event]) -> list[Event]:
        return self.append(events)

    def since(self, group: str, after: Position, limit: int) -> list[Event]:
        with self._lock:
            log = self._logs.get(group)
            head = log.position if log else self._start
            if not has_events_after(after, head) or log is None:
                return []
            if after.offset + 1 < log.first:
                raise Discontinuity("trimmed", head)
            skip = after.offset + 1 - log.first
            check_chain(after, log.events[skip][1].previous, head)
            run = (event for _, event in islice(log.events, skip, skip + limit))
            # `renew_epoch()` does not touch the stored events: they get the new epoch here.
            return [
                e if e.epoch == log.epoch else e.at(log.epoch, e.offset or 0, e.mark, e.previous)
                for e in run
            ]

    async def asince(self, group: str, after: Position, limit: int) -> list[Event]:
        return self.since(group, after, limit)

    def heads(self, groups: Collection[str]) -> dict[str, Position]:
        with self._lock:
            return self._heads(groups)

    def _heads(self, groups: Collection[str]) -> dict[str, Position]:
        return {
            group: log.position if (log := self._logs.get(group)) else self._start
            for group in groups
        }

    async def aheads(self, groups: Collection[str]) -> dict[str, Position]:
        return self.heads(groups)

    def changes(
        self, since: object, groups: Collection[str], also: Collection[str] = ()
    ) -> Changes:
        with self._lock:
            if not isinstance(since, int):
                return Changes(None, self._changes)
            most = most_changes(groups)
            last = islice(reversed(self._logs), most + 1)
            changed = list(takewhile(lambda group: self._logs[group].change > since, last))
            if len(changed) > most:
                return Changes(None, self._changes)
            asked = [*also, *(group for group in changed if group in groups)]
            return Changes(self._heads(asked), self._changes)

    async def achanges(
        self, since: object, groups: Collection[str], also: Collection[str] = ()
    ) -> Changes:
        return self.changes(since, groups, also)

    def known(self, text: str, limit: int) -> list[str]:
        with self._lock:
            return sorted(group for group in self._logs if text in group)[:limit]

    def earliest(self, group: str) -> Position:
        with self._lock:
            log = self._logs.get(group)
            return Position(log.epoch, log.first - 1) if log else self._start

    async def aearliest(self, group: str) -> Position:
        return self.earliest(group)

    def times(self, group: str, after: int, limit: int) -> dict[int, float]:
        with self._lock:
            log = self._logs.get(group)
            kept = [(event.offset or 0, at) for at, event in log.events] if log else []
        return dict([(offset, at) for offset, at in kept if offset > after][:limit])

    def renew_epoch(self, groups: Collection[str] | None = None, *, only: str | None = None) -> int:
        renewed = 0
        with self._lock:
            for group in list(self._logs if groups is None else dict.fromkeys(groups)):
                log = self._logs.get(group)
                if log is not None and only in (None, log.epoch):
                    log.epoch = new_epoch()
                    self._note_change(group)
                    renewed += 1
        return renewed

    def _note_change(self, group: str) -> None:
        self._changes += 1
        self._logs[group].change = self._changes
        self._logs.move_to_end(group)

    def prune(self, limit: int | None = None) -> int:
        keep, now = settings().RETENTION_EVENTS, time.time()
        before = now - retention_seconds()
        idle_before = now - retention_seconds() * HEAD_RETENTION_FACTOR
        pruned = 0
        with self._lock:
            for group, log in self._logs.items():
                left = None if limit is None else limit - pruned
                pruned += log.trim(keep, before, retained_count(group), left)
            for group in [
                group for group, log in self._logs.items() if log.changed_at < idle_before
            ]:
                if not self._logs[group].events:
                    del self._logs[group]
        return pruned
