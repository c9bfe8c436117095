"""The log in a database, where row and event can be one transaction.

Inside the caller's transaction an event is a row without an offset (`stage()`): it takes no lock,
and a rollback removes it. A *numbering pass* assigns offsets in a short transaction: it locks the
heads of its groups in sorted order, numbers the committed rows without offsets by primary key, and
then the new events. Primary keys are assigned before the commit, so a lower key can appear after a
higher one was read: they order the rows of a pass and are never cursors.

Each publish is a pass, for which Django's query compiler would take more time than the database.
So the SQL is written here; PostgreSQL and SQLite run the same text.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar, Final, TypeVar

from django.db import OperationalError, connections, transaction
from django.utils import timezone

from ..protocol.cursors import START, Position, new_epoch
from ..protocol.events import Event
from ..runtime.callables import in_thread
from .contract import Discontinuity, EventLog, has_events_after
from .database_postgresql import MOST_EVENTS, append_in_one_statement
from .database_sqlite import watch_file

VENDORS: Final = ("postgresql", "sqlite")
ATTEMPTS: Final = 4
CHUNK_ROWS: Final = 1000

_Result = TypeVar("_Result")


class DatabaseEventLog(EventLog):
    """Stores events in tables of the app; reads and writes use the one database `alias`."""

    shared: ClassVar[bool] = True

    def __init__(self, alias: str = "default") -> None:
        self.alias: str = alias

    # --- publishing ---

    def append(self, events: Sequence[Event]) -> list[Event]:
        if not events:
            return []
        return self._retry(lambda: self._append(events))

    async def aappend(self, events: Sequence[Event]) -> list[Event]:
        return await in_thread(self.append, events)

    def stage(self, events: Sequence[Event]) -> None:
        self._insert(events)

    def number(self, groups: Collection[str] | None = None) -> list[Event]:
        waiting = self._waiting_groups(groups)
        return self._retry(lambda: self._numbering_pass(waiting, ())) if waiting else []

    async def anumber(self, groups: Collection[str] | None = None) -> list[Event]:
        return await in_thread(self.number, groups)

    # --- reading ---

    def since(self, group: str, after: Position, limit: int) -> list[Event]:
        # Read the head before the events: an append between the two reads then adds events after
        # the head, which is harmless. In the other order, new events would seem to be trimmed.
        head = self.heads([group])[group]
        if not has_events_after(after, head):
            return []
        rows = self._rows(
            f'SELECT "offset", "name", "data" FROM {self._events} WHERE "group" = %s '
            'AND "offset" > %s ORDER BY "offset" LIMIT %s',
            [group, after.offset, limit],
        )
        if not rows or rows[0][0] != after.offset + 1:
            raise Discontinuity("trimmed", head)
        return [_event(group, name, data).at(head.epoch, offset) for offset, name, data in rows]

    async def asince(self, group: str, after: Position, limit: int) -> list[Event]:
        return await in_thread(self.since, group, after, limit)

    def heads(self, groups: Collection[str]) -> dict[str, Position]:
        if not groups:
            return {}
        rows = self._rows(
            f'SELECT "group", "epoch", "offset" FROM {self._heads} WHERE "group" IN {_in(groups)}',
            list(groups),
        )
        found = {group: Position(epoch, offset) for group, epoch, offset in rows}
        return {group: found.get(group, START) for group in groups}

    async def aheads(self, groups: Collection[str]) -> dict[str, Position]:
        return await in_thread(self.heads, groups)

    def known(self, text: str, limit: int) -> list[str]:
        from .models import GroupHead

        heads = GroupHead.objects.using(self.alias).filter(group__contains=text)
        return list(heads.order_by("group").values_list("group", flat=True)[:limit])

    def earliest(self, group: str) -> Position:
        head = self.heads([group])[group]
        rows = self._rows(f'SELECT MIN("offset") FROM {self._events} WHERE "group" = %s', [group])
        first = rows[0][0]
        return head if first is None else Position(head.epoch, first - 1)

    async def aearliest(self, group: str) -> Position:
        return await in_thread(self.earliest, group)

    def times(self, group: str, after: int, limit: int) -> dict[int, float]:
        from .models import StoredEvent

        events = StoredEvent.objects.using(self.alias).filter(group=group, offset__gt=after)
        rows = events.order_by("offset").values_list("offset", "created_at")[:limit]
        return {offset: at.timestamp() for offset, at in rows if offset is not None}

    # --- retention and epochs ---

    def renew_epoch(self, groups: Collection[str] | None = None, *, only: str | None = None) -> int:
        from .models import GroupHead

        with transaction.atomic(using=self.alias):
            heads = GroupHead.objects.using(self.alias).select_for_update().order_by("group")
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
        return await in_thread(partial(self.renew_epoch, groups, only=only))

    def prune(self, limit: int | None = None) -> int:
        from .database_pruning import prune_rows

        return prune_rows(self.alias, limit)

    async def aprune(self, limit: int | None = None) -> int:
        return await in_thread(self.prune, limit)

    def watch(self, changed: Callable[[], None]) -> Callable[[], None] | None:
        if self._connection.vendor != "sqlite":
            return None
        return watch_file(self._connection.settings_dict["NAME"], changed)

    # --- the numbering pass ---

    def _append(self, events: Sequence[Event]) -> list[Event]:
        if self._connection.vendor == "postgresql" and len(events) <= MOST_EVENTS:
            tables = self._heads, self._events
            numbered = append_in_one_statement(self._connection, tables, events, self._now())
            if numbered is not None:
                return numbered
        return self._numbering_pass({event.group for event in events}, events)

    def _numbering_pass(self, groups: Collection[str], events: Sequence[Event]) -> list[Event]:
        with transaction.atomic(using=self.alias):
            heads = self._lock(groups, Counter(event.group for event in events))
            waiting = self._rows(
                f'SELECT "id", "group", "name", "data" FROM {self._events} '
                f'WHERE "offset" IS NULL AND "group" IN {_in(groups)} ORDER BY "id"',
                list(groups),
            )
            count = {group: itertools.count(offset + 1) for group, (_, offset) in heads.items()}

            def number(event: Event) -> Event:
                return event.at(heads[event.group].epoch, next(count[event.group]))

            staged = [number(_event(group, name, data)) for _, group, name, data in waiting]
            numbered = [number(event) for event in events]
            if staged:
                self._number_rows(zip((row[0] for row in waiting), staged, strict=True))
            self._insert(numbered)
        return staged + numbered

    def _lock(self, groups: Collection[str], added: Counter[str]) -> dict[str, Position]:
        """Lock the heads, insert missing ones, add `added`; return the positions before that."""
        now = self._now()
        values = [
            value for group in sorted(groups) for value in (group, new_epoch(), added[group], now)
        ]
        rows = self._rows(
            f'INSERT INTO {self._heads} AS h ("group", "epoch", "offset", "changed_at") '
            f"VALUES {_tuples(len(groups), 4)} "
            'ON CONFLICT ("group") DO UPDATE SET "offset" = h."offset" + excluded."offset", '
            '"changed_at" = excluded."changed_at" RETURNING "group", "epoch", "offset"',
            values,
        )
        return {group: Position(epoch, offset - added[group]) for group, epoch, offset in rows}

    def _number_rows(self, rows: Iterable[tuple[int, Event]]) -> None:
        """Write the offsets of staged rows and add their numbers to the heads."""
        rows = list(rows)
        added = Counter(event.group for _, event in rows)
        with self._connection.cursor() as cursor:
            cursor.executemany(
                f'UPDATE {self._events} SET "offset" = %s WHERE "id" = %s',
                [(event.offset, pk) for pk, event in rows],
            )
            cursor.executemany(
                f'UPDATE {self._heads} SET "offset" = "offset" + %s WHERE "group" = %s',
                [(count, group) for group, count in added.items()],
            )

    def _waiting_groups(self, groups: Collection[str] | None) -> list[str]:
        if groups is not None and not groups:
            return []
        among = "" if groups is None else f'AND "group" IN {_in(groups)}'
        rows = self._rows(
            f'SELECT DISTINCT "group" FROM {self._events} WHERE "offset" IS NULL {among} '
            f"LIMIT {CHUNK_ROWS}",
            list(groups or ()),
        )
        return [group for (group,) in rows]

    def _insert(self, events: Sequence[Event]) -> None:
        now = self._now()
        rows = [(e.group, e.offset, e.name, e.data.encode(), now) for e in events]
        with self._connection.cursor() as cursor:
            for start in range(0, len(rows), CHUNK_ROWS):
                chunk = rows[start : start + CHUNK_ROWS]
                cursor.execute(
                    f'INSERT INTO {self._events} ("group", "offset", "name", "data", "created_at") '
                    f"VALUES {_tuples(len(chunk), 5)}",
                    [value for row in chunk for value in row],
                )

    def _retry(self, work: Callable[[], _Result]) -> _Result:
        """Run `work`, again after a deadlock, a serialization failure or SQLite's lock timeout."""
        for attempt in range(1, ATTEMPTS):
            try:
                return work()
            except OperationalError as error:
                if self._connection.in_atomic_block or not _was_rolled_back(error):
                    raise
                time.sleep(random.uniform(0, 0.01 * 2**attempt))
        return work()

    # --- the connection ---

    @property
    def _connection(self) -> Any:
        return connections[self.alias]

    def _rows(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, values)
            return list(cursor.fetchall())

    def _now(self) -> object:
        return self._connection.ops.adapt_datetimefield_value(timezone.now())

    @cached_property
    def _events(self) -> str:
        from .models import StoredEvent

        return str(self._connection.ops.quote_name(StoredEvent._meta.db_table))

    @cached_property
    def _heads(self) -> str:
        from .models import GroupHead

        return str(self._connection.ops.quote_name(GroupHead._meta.db_table))


def _was_rolled_back(error: OperationalError) -> bool:
    """Return whether certainly nothing was committed; a lost answer to COMMIT is uncertain."""
    state = getattr(error.__cause__, "sqlstate", None)
    return state in ("40001", "40P01") or "locked" in str(error)


def _event(group: str, name: str, data: bytes | memoryview) -> Event:
    return Event(group=group, name=name, data=bytes(data).decode())


def _in(values: Collection[object]) -> str:
    return "(" + ", ".join(["%s"] * len(values)) + ")"


def _tuples(rows: int, width: int) -> str:
    return ", ".join(["(" + ", ".join(["%s"] * width) + ")"] * rows)
