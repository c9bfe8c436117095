"""The log in a database, where row and event can be one transaction.

Inside the caller's transaction an event is a row without an offset (`stage()`): it takes no lock,
and a rollback removes it. A *numbering pass* assigns offsets in a short transaction: it locks the
heads of its groups in sorted order, numbers the committed rows without offsets by primary key, and
then the new events. Primary keys are assigned before the commit, so a lower key can appear after a
higher one was read: they order the rows of a pass and are never cursors.

The SQL is written by hand, see `database_rows`.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

from django.db import OperationalError, connections
from django.db.models import Min
from django.db.models.functions import Collate

from ..protocol.cursors import START, Position, new_epoch, new_mark
from ..protocol.events import Event
from ..runtime.callables import in_thread
from ..runtime.threads import WRITES
from ..runtime.transactions import guarded, impatient, in_transaction
from .contract import Discontinuity, EventLog, check_chain, has_events_after, number
from .database_locks import (
    APPEND_SECONDS,
    KNOWN_SECONDS,
    NUMBER_SECONDS,
    LockedGroups,
    is_lock_timeout,
    refusal,
)
from .database_postgresql import MOST_EVENTS, append_in_one_statement
from .database_rows import CHUNK_ROWS, KNOWN_MARK, Tables, in_list
from .database_sqlite import watch_file

VENDORS: Final = ("postgresql", "sqlite")
ATTEMPTS: Final = 4

_Result = TypeVar("_Result")


class DatabaseEventLog(EventLog):
    """Stores events in tables of the app; reads and writes use the one database `alias`."""

    shared: ClassVar[bool] = True

    def __init__(self, alias: str = "default") -> None:
        self.alias: str = alias
        self._locked = LockedGroups()

    # --- publishing ---

    def append(self, events: Sequence[Event]) -> list[Event]:
        if not events:
            return []
        groups = {event.group for event in events}
        seconds = self._locked.seconds(groups, APPEND_SECONDS)
        try:
            return self._retry(lambda: self._append(groups, events, seconds))
        except OperationalError as error:
            if in_transaction(self.alias) or not is_lock_timeout(error):
                raise
            locked = self._tables.locked(groups) or groups
            self._locked.found(locked)
            raise refusal(locked, seconds) from error

    async def aappend(self, events: Sequence[Event]) -> list[Event]:
        return await in_thread(self.append, events, threads=WRITES)

    def stage(self, events: Sequence[Event]) -> None:
        chunks = -(-len(events) // CHUNK_ROWS)
        guarded(self.alias, partial(self._tables.insert, events), statements=chunks)

    def number(self, groups: Collection[str] | None = None) -> list[Event]:
        waiting = self._waiting_groups(groups)
        if self._connection.vendor != "postgresql" or in_transaction(self.alias):
            return self._number(waiting, NUMBER_SECONDS)
        # A publisher of these groups holds their heads for milliseconds, and may have read the
        # staged events before the commit of these: wait. A sweep does not, as the next one comes.
        seconds = self._locked.seconds(waiting, NUMBER_SECONDS if groups else KNOWN_SECONDS)
        numbered, locked = self._number_unlocked(set(waiting), seconds)
        self._locked.delays(groups, self.delayed(locked) if locked else {})
        return numbered

    async def anumber(self, groups: Collection[str] | None = None) -> list[Event]:
        return await in_thread(self.number, groups, threads=WRITES)

    # --- reading ---

    def since(self, group: str, after: Position, limit: int) -> list[Event]:
        # Read the head before the events: an append between the two reads then adds events after
        # the head, which is harmless. In the other order, new events would seem to be trimmed.
        head = self.heads([group])[group]
        if not has_events_after(after, head):
            return []
        tables = self._tables
        rows = tables.rows(
            f'SELECT "offset", "marks", "name", "data" FROM {tables.events} WHERE "group" = %s '
            'AND "offset" > %s ORDER BY "offset" LIMIT %s',
            [group, after.offset, limit],
        )
        if not rows or rows[0][0] != after.offset + 1:
            raise Discontinuity("trimmed", head)
        check_chain(after, rows[0][1][:-4], head)
        return [
            _event(group, name, data).at(head.epoch, offset, marks[-4:], marks[:-4])
            for offset, marks, name, data in rows
        ]

    async def asince(self, group: str, after: Position, limit: int) -> list[Event]:
        return await in_thread(self.since, group, after, limit)

    def heads(self, groups: Collection[str]) -> dict[str, Position]:
        if not groups:
            return {}
        tables = self._tables
        rows = tables.rows(
            f'SELECT "group", "epoch", "offset", {KNOWN_MARK} FROM {tables.heads} AS h '
            f'WHERE "group" IN {in_list(groups)}',
            list(groups),
        )
        found = {group: Position(*head) for group, *head in rows}
        return {group: found.get(group, START) for group in groups}

    async def aheads(self, groups: Collection[str]) -> dict[str, Position]:
        return await in_thread(self.heads, groups)

    def known(self, text: str, limit: int) -> list[str]:
        from .models import GroupHead

        heads = GroupHead.objects.using(self.alias).filter(group__contains=text)
        return list(heads.order_by("group").values_list("group", flat=True)[:limit])

    def earliest(self, group: str) -> Position:
        head = self.heads([group])[group]
        tables = self._tables
        sql = f'SELECT MIN("offset") FROM {tables.events} WHERE "group" = %s'
        first = tables.rows(sql, [group])[0][0]
        return head if first is None else Position(head.epoch, first - 1)

    async def aearliest(self, group: str) -> Position:
        return await in_thread(self.earliest, group)

    def times(self, group: str, after: int, limit: int) -> dict[int, float]:
        from .models import StoredEvent

        events = StoredEvent.objects.using(self.alias).filter(group=group, offset__gt=after)
        rows = events.order_by("offset").values_list("offset", "created_at")[:limit]
        return {offset: at.timestamp() for offset, at in rows if offset is not None}

    def delay(self) -> float:
        return self._locked.delay()

    def delayed(self, groups: Collection[str] | None = None) -> dict[str, float]:
        from .models import StoredEvent

        staged = StoredEvent.objects.using(self.alias).filter(offset=None)
        if groups is not None:
            staged = staged.filter(group__in=groups)
        first = staged.values_list("group").annotate(Min("created_at"))
        return {group: at.timestamp() for group, at in first}

    # --- retention and epochs ---

    def renew_epoch(self, groups: Collection[str] | None = None, *, only: str | None = None) -> int:
        from .models import GroupHead

        with impatient(self.alias, APPEND_SECONDS):
            # In the order of bytes, as Python sorts them: the database's may be ICU's.
            by_bytes = Collate("group", "C") if self._connection.vendor == "postgresql" else "group"
            heads = GroupHead.objects.using(self.alias).select_for_update().order_by(by_bytes)
            if groups is not None:
                heads = heads.filter(group__in=groups)
            if only is not None:
                heads = heads.filter(epoch=only)
            for head in heads:
                head.epoch = new_epoch()
                head.save(using=self.alias, update_fields=["epoch"])
            return len(heads)

    async def arenew_epoch(
        self, groups: Collection[str] | None = None, *, only: str | None = None
    ) -> int:
        work = partial(self.renew_epoch, groups, only=only)
        return await in_thread(work, threads=WRITES)

    def prune(self, limit: int | None = None) -> int:
        from .database_pruning import prune_rows

        return prune_rows(self.alias, limit)

    async def aprune(self, limit: int | None = None) -> int:
        return await in_thread(self.prune, limit, threads=WRITES)

    def watch(self, changed: Callable[[], None]) -> Callable[[], None] | None:
        if self._connection.vendor != "sqlite":
            return None
        return watch_file(self._connection.settings_dict["NAME"], changed)

    # --- the numbering pass ---

    def _append(
        self, groups: Collection[str], events: Sequence[Event], seconds: float
    ) -> list[Event]:
        tables = self._tables
        if tables.connection.vendor == "postgresql" and len(events) <= MOST_EVENTS:
            numbered = append_in_one_statement(tables, events, seconds)
            if numbered is not None:
                return numbered
        return self._numbering_pass(tables, groups, events, seconds)

    def _number(self, groups: Collection[str], seconds: float) -> list[Event]:
        if not groups:
            return []
        return self._retry(lambda: self._numbering_pass(self._tables, groups, (), seconds))

    def _number_unlocked(self, groups: set[str], seconds: float) -> tuple[list[Event], set[str]]:
        """Number the staged events of `groups`; return them, and the groups with locked heads."""
        brief = seconds <= KNOWN_SECONDS
        locked = self._tables.locked(groups) if groups and brief else set[str]()
        free = groups - locked
        try:
            return self._number(free, seconds), locked
        except OperationalError as error:
            if not is_lock_timeout(error):
                raise
        if brief and len(free) == 1:
            return [], groups
        # One by one: the head of a new group may be locked, and can't be seen yet.
        parts = [self._number_unlocked({group}, KNOWN_SECONDS) for group in sorted(free)]
        numbered = [event for events, _ in parts for event in events]
        return numbered, locked.union(*(also for _, also in parts))

    def _numbering_pass(
        self, tables: Tables, groups: Collection[str], events: Sequence[Event], seconds: float
    ) -> list[Event]:
        with impatient(self.alias, seconds):
            marked = [(event, new_mark()) for event in events]
            last = {event.group: mark for event, mark in marked}
            heads = tables.lock(groups, Counter(event.group for event in events), last)
            waiting = tables.rows(
                f'SELECT "id", "group", "name", "data" FROM {tables.events} '
                f'WHERE "offset" IS NULL AND "group" IN {in_list(groups)} ORDER BY "id"',
                list(groups),
            )
            staged = number(
                [(_event(group, name, data), new_mark()) for _, group, name, data in waiting], heads
            )
            numbered = number(marked, heads)
            if staged:
                tables.number([pk for pk, *_ in waiting], staged, heads)
            tables.insert(numbered)
        return staged + numbered

    def _waiting_groups(self, groups: Collection[str] | None) -> list[str]:
        if groups is not None and not groups:
            return []
        among = "" if groups is None else f'AND "group" IN {in_list(groups)}'
        tables = self._tables
        rows = tables.rows(
            f'SELECT DISTINCT "group" FROM {tables.events} WHERE "offset" IS NULL {among} '
            f"LIMIT {CHUNK_ROWS}",
            list(groups or ()),
        )
        return [group for (group,) in rows]

    def _retry(self, work: Callable[[], _Result]) -> _Result:
        """Run `work`, again after a deadlock, a serialization failure or SQLite's lock timeout."""
        for attempt in range(1, ATTEMPTS):
            try:
                return work()
            except OperationalError as error:
                if in_transaction(self.alias) or not _was_rolled_back(error):
                    raise
                time.sleep(random.uniform(0, 0.01 * 2**attempt))
        return work()

    # --- the connection ---

    @property
    def _connection(self) -> Any:
        return connections[self.alias]

    @property
    def _tables(self) -> Tables:
        return Tables(self.alias)


def _was_rolled_back(error: OperationalError) -> bool:
    """Return whether certainly nothing was committed; a lost answer to COMMIT is uncertain."""
    state = getattr(error.__cause__, "sqlstate", None)
    return state in ("40001", "40P01") or "locked" in str(error)


def _event(group: str, name: str, data: bytes | memoryview) -> Event:
    return Event(group=group, name=name, data=bytes(data).decode())
