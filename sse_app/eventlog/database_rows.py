"""The statements that write the database log's rows; PostgreSQL and SQLite run the same text.

Each publish runs them, and Django's query compiler would take more time than the database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from django.db import connections
from django.utils import timezone

from ..protocol.cursors import Position, new_epoch
from ..protocol.events import Event

CHUNK_ROWS: Final = 1000

#: The columns of a head that an append writes, in the order of its values.
HEAD_COLUMNS: Final = '"group", "epoch", "offset", "changed_at", "mark", "marked"'

#: The mark of a head `h`, "" if it is not known: an older version of the app appended last.
KNOWN_MARK: Final = """CASE WHEN h."marked" = h."offset" THEN h."mark" ELSE '' END"""

#: The end of an INSERT of heads `h` that locks them. `previous` is then the mark of the last event.
LOCK_HEAD: Final = (
    'ON CONFLICT ("group") DO UPDATE SET "changed_at" = excluded."changed_at", '
    f'"previous" = {KNOWN_MARK}'
)
#: As `LOCK_HEAD`; the offset of an inserted head is the number of new events, at least one.
ADD_TO_HEAD: Final = (
    f'{LOCK_HEAD}, "offset" = h."offset" + excluded."offset", "mark" = excluded."mark", '
    '"marked" = h."offset" + excluded."offset"'
)


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

    def rows(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """Run one statement; return its rows."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)
            return list(cursor.fetchall())

    @cached_property
    def now(self) -> object:
        """The time of the call, as the database stores it."""
        return self.connection.ops.adapt_datetimefield_value(timezone.now())

    def locked(self, groups: Collection[str]) -> set[str]:
        """Return the `groups` whose heads another session of PostgreSQL has locked now.

        A head that such a session has inserted, and not committed, can't be seen.
        """
        among = f'FROM {self.heads} WHERE "group" IN {in_list(groups)}'
        rows = self.rows(
            f'WITH free AS (SELECT "group" {among} FOR NO KEY UPDATE SKIP LOCKED) '
            f'SELECT "group" {among} AND "group" NOT IN (SELECT "group" FROM free)',
            [*groups, *groups],
        )
        return {group for (group,) in rows}

    def lock(
        self, groups: Collection[str], added: Counter[str], marks: Mapping[str, str]
    ) -> dict[str, Position]:
        """Lock the heads and insert missing ones; return their positions.

        `added`: how many events will follow in each group, and `marks`: the last one's mark. The
        heads then have the positions after these events; empty for a pass without new events.
        """
        now, then = self.now, ADD_TO_HEAD if added else LOCK_HEAD
        values = [
            value
            for group in sorted(groups)
            for value in (group, new_epoch(), added[group], now, marks.get(group, ""), added[group])
        ]
        rows = self.rows(
            f"INSERT INTO {self.heads} AS h ({HEAD_COLUMNS}) VALUES {tuples(len(groups), 6)} "
            f'{then} RETURNING "group", "epoch", "offset", "previous"',
            values,
        )
        return {
            group: Position(epoch, offset - added[group], mark)
            for group, epoch, offset, mark in rows
        }

    def number(
        self, keys: Sequence[int], events: Sequence[Event], heads: Mapping[str, Position]
    ) -> None:
        """Write the positions of staged rows, and the `heads` of their groups."""
        staged = {event.group: heads[event.group] for event in events}
        with self.connection.cursor() as cursor:
            cursor.executemany(
                f'UPDATE {self.events} SET "offset" = %s, "marks" = %s WHERE "id" = %s',
                [
                    (event.offset, event.previous + event.mark, key)
                    for key, event in zip(keys, events, strict=True)
                ],
            )
            cursor.executemany(
                f'UPDATE {self.heads} SET "offset" = %s, "marked" = %s, "mark" = %s '
                'WHERE "group" = %s',
                [(head.offset, head.offset, head.mark, group) for group, head in staged.items()],
            )

    def insert(self, events: Sequence[Event], template: str = "{}") -> None:
        """Insert `events`; those without an offset are staged. `template`: see `guarded()`."""
        now = self.now
        rows = [
            (e.group, e.offset, e.previous + e.mark, e.name, e.data.encode(), now) for e in events
        ]
        with self.connection.cursor() as cursor:
            for start in range(0, len(rows), CHUNK_ROWS):
                chunk = rows[start : start + CHUNK_ROWS]
                sql = (
                    f'INSERT INTO {self.events} ("group", "offset", "marks", "name", "data", '
                    f'"created_at") VALUES {tuples(len(chunk), 6)}'
                )
                cursor.execute(template.format(sql), [value for row in chunk for value in row])


def in_list(values: Collection[object]) -> str:
    """Return a list of as many placeholders as there are `values`, in parentheses."""
    return "(" + ", ".join(["%s"] * len(values)) + ")"


def tuples(rows: int, width: int) -> str:
    """Return `rows` lists of `width` placeholders, for VALUES."""
    return ", ".join(["(" + ", ".join(["%s"] * width) + ")"] * rows)
