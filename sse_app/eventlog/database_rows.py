"""The statements that write the database log's rows; PostgreSQL and SQLite run the same text.

Each publish runs them, and Django's query compiler would take more time than the database.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Final, TypeVar

from django.db import connections
from django.utils import timezone

from ..protocol.cursors import Position
from ..protocol.events import Event
from .contract import new_epoch
from .missing_tables import needs_tables

#: The most groups or events of one statement.
CHUNK_ROWS: Final = 1000

_Value = TypeVar("_Value")

#: The columns of a head that an append writes, in the order of its values.
HEAD_COLUMNS: Final = '"group", "epoch", "offset", "changed_at", "mark", "marked"'

#: The mark of a head `h`, "" if it is not known: an older version of the app appended last.
KNOWN_MARK: Final = """CASE WHEN h."marked" = h."offset" THEN h."mark" ELSE '' END"""

#: The end of an INSERT of heads `h` that locks them. `previous` is then the mark of the last event.
LOCK_HEAD: Final = (
    f'ON CONFLICT ("group") DO UPDATE SET "changed_at" = {{now}}, "previous" = {KNOWN_MARK}'
)
#: As `LOCK_HEAD`; the offset of an inserted head is the number of new events, at least one.
ADD_TO_HEAD: Final = (
    f'{LOCK_HEAD}, "offset" = h."offset" + excluded."offset", "mark" = excluded."mark", '
    '"marked" = h."offset" + excluded."offset"'
)


#: The time of a change on PostgreSQL: of the one clock that all processes share, and in an UPDATE
#: after the wait for the row's lock. So `DatabaseEventLog.changes()` misses no late commit.
CLOCK: Final = "clock_timestamp()"


class Tables:
    """The two tables of a log, on the calling thread's connection to the database `alias`.

    Made for each call of the log, whose rows all have the same time.
    """

    def __init__(self, alias: str) -> None:
        from .models import GroupHead, StoredEvent

        self.connection: Any = connections[alias]
        quote = self.connection.ops.quote_name
        self.heads = quote(GroupHead._meta.db_table)
        self.events = quote(StoredEvent._meta.db_table)

    @cached_property
    def cursor(self) -> Any:
        """A cursor for all statements of the call: Django makes one in the time of a statement."""
        return self.connection.cursor()

    def rows(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """Run one statement; return its rows."""
        with needs_tables(self.connection.alias):
            self.cursor.execute(sql, values)
        return list(self.cursor.fetchall())

    def last_rows(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """Run statements that PostgreSQL gets together; return the rows of the last one."""
        self.cursor.execute(sql, values)
        while self.cursor.nextset():
            pass
        return list(self.cursor.fetchall())

    def among(self, values: Collection[str]) -> tuple[str, list[object]]:
        """Return a condition "is one of `values`", and its parameters: one, however many values.

        SQLite takes at most 32,766 parameters, and PostgreSQL 65,535.
        """
        if len(values) == 1:
            return "= %s", [*values]
        if self.connection.vendor == "postgresql":
            return "= ANY(%s)", [list(values)]
        return "IN (SELECT value FROM json_each(%s))", [json.dumps(list(values))]

    @cached_property
    def now(self) -> object:
        """The time of the call, as the database stores it."""
        return self.connection.ops.adapt_datetimefield_value(timezone.now())

    def locked(self, groups: Collection[str]) -> set[str]:
        """Return the `groups` whose heads another session of PostgreSQL has locked now.

        A head that such a session has inserted, and not committed, can't be seen.
        """
        among, values = self.among(groups)
        found = f'FROM {self.heads} WHERE "group" {among}'
        rows = self.rows(
            f'WITH free AS (SELECT "group" {found} FOR NO KEY UPDATE SKIP LOCKED) '
            f'SELECT "group" {found} AND "group" NOT IN (SELECT "group" FROM free)',
            values * 2,
        )
        return {group for (group,) in rows}

    def lock(
        self, groups: Collection[str], added: Counter[str], marks: Mapping[str, str]
    ) -> tuple[dict[str, Position], list[str]]:
        """Lock the heads and insert missing ones; return their positions, and the staged groups.

        `added`: how many events will follow in each group, and `marks`: the last one's mark. The
        heads then have the positions after these events; empty for a pass without new events.
        A staged group had staged, committed events when its head was asked for.
        """
        clock, now = self.clock()
        update = 'excluded."changed_at"' if now else clock
        then = (ADD_TO_HEAD if added else LOCK_HEAD).format(now=update)
        row = f"(%s, %s, %s, {clock}, %s, %s)"
        # SQLite does not know the alias after RETURNING, and PostgreSQL no other name than that.
        head = "h" if self.connection.vendor == "postgresql" else self.heads
        heads: dict[str, Position] = {}
        staged: list[str] = []
        for some in portions(sorted(groups)):
            rows = self.rows(
                f"INSERT INTO {self.heads} AS h ({HEAD_COLUMNS}) VALUES "
                f"{', '.join([row] * len(some))} {then} "
                f'RETURNING "group", "epoch", "offset", "previous", EXISTS(SELECT 1 FROM '
                f'{self.events} e WHERE e."offset" IS NULL AND e."group" = {head}."group")',
                [
                    value
                    for group in some
                    for count in (added[group],)
                    for value in (group, new_epoch(), count, *now, marks.get(group, ""), count)
                ],
            )
            for group, epoch, offset, mark, waits in rows:
                heads[group] = Position(epoch, offset - added[group], mark)
                if waits:
                    staged.append(group)
        return heads, staged

    def clock(self) -> tuple[str, list[object]]:
        """Return the SQL for the time of a change of heads, and its values."""
        if self.connection.vendor == "postgresql":
            return CLOCK, []
        return "%s", [self._now_as_writer()]

    def _now_as_writer(self) -> object:
        """Return the time of the call, which is after the last commit of another connection.

        SQLite has one writer at a time. In its deferred transactions the first statement that
        writes waits for the others.
        """
        if getattr(self.connection, "transaction_mode", None) not in ("IMMEDIATE", "EXCLUSIVE"):
            self.rows(f"DELETE FROM {self.heads} WHERE 0", [])
        return self.now

    def number(
        self, keys: Sequence[int], events: Sequence[Event], heads: Mapping[str, Position]
    ) -> None:
        """Write the positions of staged rows, and the `heads` of their groups."""
        staged = {event.group: heads[event.group] for event in events}
        rows = [
            (key, event.offset, event.previous + event.mark)
            for key, event in zip(keys, events, strict=True)
        ]
        self._update(self.events, ("id", "offset", "marks"), rows)
        last = [(group, head.offset, head.offset, head.mark) for group, head in staged.items()]
        self._update(self.heads, ("group", "offset", "marked", "mark"), last)

    def _update(
        self, table: str, columns: Sequence[str], rows: Sequence[tuple[object, ...]], more: str = ""
    ) -> None:
        """Set the columns after the first one, which is the key, in one statement for many rows.

        Not by `executemany()`, which packages that record the SQL of a project do not understand.
        """
        key, *others = columns
        values = ", ".join(f'"{name}" = v."{name}"' for name in others)
        names = ", ".join(f'"{name}"' for name in columns)
        for some in portions(rows):
            self.cursor.execute(
                f"WITH v ({names}) AS (VALUES {tuples(len(some), len(columns))}) "
                f'UPDATE {table} SET {values}{more} FROM v WHERE {table}."{key}" = v."{key}"',
                [value for row in some for value in row],
            )

    def renew(self, groups: Sequence[str]) -> None:
        """Give the heads of `groups` new epochs."""
        clock, now = self.clock()
        epochs = [(group, new_epoch(), *now) for group in groups]
        columns = ("group", "epoch", *["changed_at" for _ in now])
        self._update(self.heads, columns, epochs, "" if now else f', "changed_at" = {clock}')

    def insert(self, events: Sequence[Event], template: str = "{}") -> None:
        """Insert `events`; those without an offset are staged. `template`: see `guarded()`."""
        now = self.now
        columns = ["group", "offset", "marks", "name", "data", "created_at"]
        if excludes := any(event.excluded for event in events):
            columns.append("excluded")
        names = ", ".join(f'"{column}"' for column in columns)
        for some in portions(events):
            placeholders = tuples(len(some), len(columns))
            sql = f"INSERT INTO {self.events} ({names}) VALUES {placeholders}"
            values: list[Any] = []
            for e in some:
                values += (e.group, e.offset, e.previous + e.mark, e.name, e.data.encode(), now)
                if excludes:
                    values.append(e.excluded_text)
            self.cursor.execute(template.format(sql), values)


def portions(values: Sequence[_Value]) -> Iterator[Sequence[_Value]]:
    """Yield `values` in lists for one statement each, in their order."""
    for start in range(0, len(values), CHUNK_ROWS):
        yield values[start : start + CHUNK_ROWS]


@lru_cache(maxsize=64)
def tuples(rows: int, width: int) -> str:
    """Return `rows` lists of `width` placeholders, for VALUES."""
    return ", ".join(["(" + ", ".join(["%s"] * width) + ")"] * rows)
