"""Appending on PostgreSQL in one statement: one round trip and one COMMIT.

Nearly always no staged event waits for its offset, and one statement then does the work of a
numbering pass. The statement's own snapshot decides: if it has a staged row that was committed
before the publish began, the statement writes nothing, and the caller runs a pass.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from typing import Any, Final
from weakref import WeakKeyDictionary

from django.db import DatabaseError

from ..protocol.cursors import Position
from ..protocol.events import Event
from ..runtime.transactions import sends_together
from .contract import new_epoch, new_mark, number
from .database_rows import ADD_TO_HEAD, CLOCK, HEAD_COLUMNS, Tables

#: With more events, one round trip less makes no difference, and the statement grows.
MOST_EVENTS: Final = 1000
#: Commits at the same time share a write to the disk. With more of them, each has fewer events.
APPENDS_AT_ONCE: Final = 4

#: A connection that has appended so often prepares the statement: PostgreSQL then plans it once,
#: which takes longer than all the rest. Most connections of Django publish less.
PREPARED_AFTER: Final = 5

#: The heads and the events are JSON, which PostgreSQL reads in a fraction of the time of a VALUES
#: list; the bytes of the data are in hexadecimal. A row without a mark of the event before it is
#: the first one of its group: the head knows that mark.
_SQL: Final = f"""
WITH head AS (
    INSERT INTO {{heads}} AS h ({HEAD_COLUMNS})
    SELECT v."group", v."epoch", v."added", {{now}}, v."mark", v."added"
    FROM json_to_recordset(%s) AS v("group" text, "epoch" text, "added" bigint, "mark" text)
    WHERE set_config(
        'lock_timeout', COALESCE(%s, current_setting('lock_timeout')), true
    ) <> '' AND NOT EXISTS (
        SELECT 1 FROM {{events}} w WHERE w."offset" IS NULL AND w."group" = ANY(%s)
    )
    ORDER BY v."group" COLLATE "C"
    {ADD_TO_HEAD}
    RETURNING h."group", h."epoch", h."offset", h."previous"
), stored AS (
    INSERT INTO {{events}} ("group", "offset", "marks", "name", "data", "created_at", "excluded")
    SELECT e."group", head."offset" - e."left", COALESCE(e."previous", head."previous") || e."mark",
        e."name", decode(e."data", 'hex'), %s::timestamptz, COALESCE(e."excluded", '')
    FROM json_to_recordset(%s) AS e(
        "group" text, "left" bigint, "previous" text, "mark" text, "name" text, "data" text,
        "excluded" text
    ) JOIN head ON head."group" = e."group"
    ORDER BY e."left" DESC
)
SELECT "group", "epoch", "offset", "previous" FROM head
"""


_TYPES: Final = ("json", "text", "text[]", "timestamptz", "json")
#: The statement is not there, or was there before, as behind a pooler that gives each transaction
#: another connection; or the tables have changed.
_NOT_PREPARED: Final = ("26000", "42P05", "0A000")

#: By connection of the driver, the number of its appends.
_appends: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
#: The aliases whose connections don't keep prepared statements.
_unprepared: set[str] = set()


def append_in_one_statement(
    tables: Tables, events: Sequence[Event], seconds: float
) -> list[Event] | None:
    """Store `events` and return them with offsets; None, and nothing stored, if staged ones wait.

    The statement locks the heads in the order of the bytes of their names, as a pass does, whatever
    the database's collation, and waits up to `seconds` for each. In a transaction of the caller it
    waits as that one does.
    """
    own = not tables.connection.in_atomic_block
    added = Counter(event.group for event in events)
    left, last = dict(added), dict[str, str]()
    rows: list[dict[str, object]] = []
    marked = [(event, new_mark()) for event in events]
    for event, mark in marked:
        group = event.group
        left[group] -= 1
        row = {"group": group, "left": left[group], "previous": last.get(group), "mark": mark}
        if event.excluded:
            row["excluded"] = event.excluded_text
        rows.append({**row, "name": event.name, "data": event.data.encode().hex()})
        last[group] = mark
    groups = [
        {"group": group, "epoch": new_epoch(), "added": count, "mark": last[group]}
        for group, count in added.items()
    ]
    timeout = f"{seconds * 1000:.0f}" if own else None
    values = [json.dumps(groups), timeout, [*added], tables.now, json.dumps(rows)]
    heads = {
        group: Position(epoch, offset - added[group], previous)
        for group, epoch, offset, previous in _rows(tables, values, prepared=own)
    }
    return number(marked, heads) if heads else None


def _rows(tables: Tables, values: Sequence[object], *, prepared: bool) -> list[tuple[Any, ...]]:
    """Run the statement; `prepared`: as a prepared one, if the connection appends often."""
    sql = _SQL.format(heads=tables.heads, events=tables.events, now=CLOCK)
    appends = _count(tables) if prepared else 0
    if appends >= PREPARED_AFTER:
        try:
            if appends == PREPARED_AFTER:
                tables.cursor.execute(_preparing(sql))
            return tables.rows(f"EXECUTE {_name(sql)}(%s, %s, %s, %s, %s)", values)
        except DatabaseError as error:
            if getattr(error.__cause__, "sqlstate", None) not in _NOT_PREPARED:
                raise
            _unprepared.add(tables.connection.alias)
    return tables.rows(sql, values)


def _count(tables: Tables) -> int:
    """Count an append; return how many this connection has done, 0 if it can't prepare any."""
    connection = tables.connection
    pooled = connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS")
    if pooled or connection.alias in _unprepared or not sends_together(connection):
        return 0
    driver = tables.cursor.connection
    _appends[driver] = _appends.get(driver, 0) + 1
    return _appends[driver]


def _preparing(sql: str) -> str:
    text = sql
    for place in range(1, len(_TYPES) + 1):
        text = text.replace("%s", f"${place}", 1)
    return f"PREPARE {_name(sql)}({', '.join(_TYPES)}) AS {text}"


@cache
def _name(sql: str) -> str:
    """Return the name of the prepared statement: another one for each text, as of each version."""
    return f"sse_app_{sha1(sql.encode(), usedforsecurity=False).hexdigest()[:12]}"
