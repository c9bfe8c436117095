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
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

from django.db import DatabaseError, OperationalError, connections
from django.db.models.functions import Collate

from ..protocol.cursors import START, Position
from ..protocol.events import Event
from ..runtime.callables import in_thread
from ..runtime.threads import WRITES
from ..runtime.transactions import guarded, impatient, in_transaction, sends_together
from .contract import Changes, EventLog, Outcome, Read, has_events_after
from .database_changes import read_changes
from .database_locks import (
    APPEND_SECONDS,
    KNOWN_SECONDS,
    NUMBER_SECONDS,
    LockedGroups,
    is_lock_timeout,
    refusal,
    staged_since,
    was_refused,
)
from .database_numbering import (
    number_in_one_round_trip,
    numbering_pass,
    waiting_groups,
)
from .database_pages import page_of, read_pages
from .database_postgresql import APPENDS_AT_ONCE, MOST_EVENTS, append_in_one_statement
from .database_rows import CHUNK_ROWS, KNOWN_MARK, Tables, portions
from .database_sqlite import watch_file
from .missing_tables import NOT_PUBLISHED, needs_tables

VENDORS: Final = ("postgresql", "sqlite")
ATTEMPTS: Final = 4

_Result = TypeVar("_Result")


class DatabaseEventLog(EventLog):
    """Stores events in tables of the app; reads and writes use the one database `alias`."""

    shared: ClassVar[bool] = True
    most_together: ClassVar[int] = MOST_EVENTS

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
            with needs_tables(self.alias, NOT_PUBLISHED):
                return self._retry(lambda: self._append(groups, events, seconds))
        except OperationalError as error:
            if in_transaction(self.alias) or not is_lock_timeout(error):
                raise
            self._locked.found(locked := self._tables.locked(groups) or groups)
            raise refusal(locked, seconds) from error

    def joins(self, events: Sequence[Event]) -> bool:
        # A function around the statements of this thread must not see those of others.
        alone = self._connection.execute_wrappers or in_transaction(self.alias)
        return not alone and not self._locked.apart({event.group for event in events})

    def appends_at_once(self) -> int:
        return APPENDS_AT_ONCE if self._connection.vendor == "postgresql" else 1

    def append_together(self, batches: Sequence[Sequence[Event]]) -> list[Event] | None:
        events = [event for batch in batches for event in batch]
        groups = {event.group for event in events}
        try:
            self._connection.ensure_connection()
        except DatabaseError:
            return None  # Other threads may have a connection.
        if all(len({event.group for event in batch}) == len(groups) for batch in batches):
            seconds = self._locked.seconds(groups, APPEND_SECONDS)
        else:
            seconds = KNOWN_SECONDS  # A locked head must not delay events of other groups.
        try:
            return self._retry(lambda: self._append(groups, events, seconds))
        except DatabaseError as error:
            if is_lock_timeout(error):
                self._locked.set_apart(self._tables.locked(groups))
            elif not was_refused(error):
                raise
            return None

    async def aappend(self, events: Sequence[Event]) -> list[Event]:
        return await in_thread(self.append, events, threads=WRITES)

    def stage(self, events: Sequence[Event]) -> None:
        insert, chunks = partial(self._tables.insert, events), -(-len(events) // CHUNK_ROWS)
        with needs_tables(self.alias, NOT_PUBLISHED):
            guarded(self.alias, insert, statements=chunks)

    def number(self, groups: Collection[str] | None = None) -> list[Event]:
        if self._connection.vendor != "postgresql" or in_transaction(self.alias):
            return self._number(waiting_groups(self._tables, groups), NUMBER_SECONDS)
        waiting = waiting_groups(self._tables, None) if groups is None else groups
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
            f'SELECT "offset", "marks", "name", "data", "excluded" FROM {tables.events} '
            'WHERE "group" = %s AND "offset" > %s ORDER BY "offset" LIMIT %s',
            [group, after.offset, limit],
        )
        return page_of(group, after, head, rows)

    async def asince(self, group: str, after: Position, limit: int) -> list[Event]:
        return await in_thread(self.since, group, after, limit)

    async def asince_each(self, reads: Sequence[Read], limit: int) -> list[Outcome]:
        if type(self).since is not DatabaseEventLog.since:  # A subclass reads in its own way.
            return await super().asince_each(reads, limit)
        return await in_thread(read_pages, self, reads, limit)

    def heads(self, groups: Collection[str]) -> dict[str, Position]:
        if not groups:
            return {}
        tables = self._tables
        among, values = tables.among(groups)
        columns = f'"group", "epoch", "offset", {KNOWN_MARK}'
        rows = tables.rows(
            f'SELECT {columns} FROM {tables.heads} AS h WHERE "group" {among}', values
        )
        found = {group: Position(*head) for group, *head in rows}
        return {group: found.get(group, START) for group in groups}

    async def aheads(self, groups: Collection[str]) -> dict[str, Position]:
        return await in_thread(self.heads, groups)

    def changes(
        self, since: object, groups: Collection[str], also: Collection[str] = ()
    ) -> Changes:
        return read_changes(self._tables, since, groups, also)

    async def achanges(
        self, since: object, groups: Collection[str], also: Collection[str] = ()
    ) -> Changes:
        return await in_thread(self.changes, since, groups, also)

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
        return staged_since(self.alias, groups)

    # --- retention and epochs ---

    def renew_epoch(self, groups: Collection[str] | None = None, *, only: str | None = None) -> int:
        from .models import GroupHead

        with impatient(self.alias, APPEND_SECONDS):
            # In the order of bytes, as Python sorts them: the database's may be ICU's.
            postgresql = self._connection.vendor == "postgresql"
            by_bytes = Collate("group", "C") if postgresql else "group"
            all_heads = GroupHead.objects.using(self.alias).order_by(by_bytes)
            all_heads = all_heads.select_for_update(no_key=postgresql)
            if only is not None:
                all_heads = all_heads.filter(epoch=only)
            parts = [all_heads]
            if groups is not None:
                parts = [all_heads.filter(group__in=some) for some in portions(sorted(groups))]
            found = [head.group for heads in parts for head in heads]
            self._tables.renew(found)
            return len(found)

    async def arenew_epoch(
        self, groups: Collection[str] | None = None, *, only: str | None = None
    ) -> int:
        return await in_thread(partial(self.renew_epoch, groups, only=only), threads=WRITES)

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
        return numbering_pass(tables, groups, events, seconds)

    def _number(self, groups: Collection[str], seconds: float) -> list[Event]:
        if not groups:
            return []
        tables = self._tables
        if sends_together(tables.connection) and not in_transaction(self.alias):
            return self._retry(lambda: number_in_one_round_trip(tables, groups, seconds))
        return self._retry(lambda: numbering_pass(tables, groups, (), seconds))

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
        waiting = sorted(waiting_groups(self._tables, free))
        parts = [self._number_unlocked({group}, KNOWN_SECONDS) for group in waiting]
        numbered = [event for events, _ in parts for event in events]
        return numbered, locked.union(*(also for _, also in parts))

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
