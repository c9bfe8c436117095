"""Appending on PostgreSQL in one statement: one round trip and one COMMIT.

Nearly always no staged event waits for its offset, and one statement then does the work of a
numbering pass. The statement's own snapshot decides: if it has a staged row that was committed
before the publish began, the statement writes nothing, and the caller runs a pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from ..protocol.cursors import Position
from ..protocol.events import Event
from .contract import new_epoch, new_mark, number
from .database_rows import ADD_TO_HEAD, CLOCK, HEAD_COLUMNS, Tables

#: With more events, one round trip less makes no difference, and the statement grows.
MOST_EVENTS: Final = 1000

#: A row without a mark of the event before it is the first one of its group: the head knows that.
_SQL: Final = f"""
WITH head AS (
    INSERT INTO {{heads}} AS h ({HEAD_COLUMNS})
    SELECT v.* FROM (VALUES {{groups}}) AS v ({HEAD_COLUMNS})
    WHERE set_config('lock_timeout', {{timeout}}, true) <> '' AND NOT EXISTS (
        SELECT 1 FROM {{events}} w WHERE w."offset" IS NULL AND w."group" IN ({{names}})
    )
    ORDER BY v."group" COLLATE "C"
    {ADD_TO_HEAD}
    RETURNING h."group", h."epoch", h."offset", h."previous"
), stored AS (
    INSERT INTO {{events}} ("group", "offset", "marks", "name", "data", "created_at")
    SELECT e."group", head."offset" - e."left", COALESCE(e."previous", head."previous") || e."mark",
        e."name", e."data", e."at"
    FROM (VALUES {{rows}}) AS e ("group", "left", "previous", "mark", "name", "data", "at")
    JOIN head ON head."group" = e."group"
)
SELECT "group", "epoch", "offset", "previous" FROM head
"""


def append_in_one_statement(
    tables: Tables, events: Sequence[Event], seconds: float
) -> list[Event] | None:
    """Store `events` and return them with offsets; None, and nothing stored, if staged ones wait.

    The statement locks the heads in the order of the bytes of their names, as a pass does, whatever
    the database's collation, and waits up to `seconds` for each. In a transaction of the caller it
    waits as that one does.
    """
    now, own = tables.now, not tables.connection.in_atomic_block
    added = Counter(event.group for event in events)
    left, last = dict(added), dict[str, str]()
    rows: list[object] = []
    marked = [(event, new_mark()) for event in events]
    for event, mark in marked:
        left[event.group] -= 1
        previous, last[event.group] = last.get(event.group), mark
        rows += [event.group, left[event.group], previous, mark, event.name, event.data.encode()]
        rows.append(now)
    groups: list[object] = [
        value
        for name in sorted(added)
        for value in (name, new_epoch(), added[name], last[name], added[name])
    ]
    sql = _SQL.format(
        heads=tables.heads,
        events=tables.events,
        now=CLOCK,
        timeout=f"'{seconds * 1000:.0f}'" if own else "current_setting('lock_timeout')",
        groups=", ".join([f"(%s, %s, %s::bigint, {CLOCK}, %s, %s::bigint)"] * len(added)),
        names=", ".join(["%s"] * len(added)),
        rows=", ".join(
            ["(%s, %s::bigint, %s::text, %s, %s, %s::bytea, %s::timestamptz)"] * len(events)
        ),
    )
    heads = {
        group: Position(epoch, offset - added[group], previous)
        for group, epoch, offset, previous in tables.rows(sql, [*groups, *sorted(added), *rows])
    }
    return number(marked, heads) if heads else None
