"""Which heads of the database log changed since a moment: one statement, by the index of times.

On PostgreSQL `changed_at` is the time of the server, so the clocks of the processes do not matter.
A head can be committed after another one that changed later: between the two times are only the
waits of one statement for the heads of its other groups, and the commit. `OVERLAP_SECONDS` covers
both.

On SQLite `changed_at` is the time of the writer, which holds the file's only lock meanwhile. So the
times are in the order of the commits, and the newest one is where the next call continues.

If a clock was set back, or the newest head is older than it was, the log may have gone back.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import datetime
from typing import Any, Final, NamedTuple

from ..protocol.cursors import START, Position
from .contract import Changes, most_changes
from .database_locks import APPEND_SECONDS
from .database_rows import KNOWN_MARK, Tables

OVERLAP_SECONDS: Final = 2 * APPEND_SECONDS

_COLUMNS: Final = f'"group", "epoch", "offset", {KNOWN_MARK}, "changed_at"'
_SQL: Final = f"""
SELECT * FROM (
    SELECT 0, {_COLUMNS} FROM {{heads}} AS h ORDER BY "changed_at" DESC LIMIT 1
) AS newest
UNION ALL SELECT * FROM (
    SELECT 1, {_COLUMNS} FROM {{heads}} AS h WHERE "changed_at" > {{start}} LIMIT %s
) AS changed
UNION ALL SELECT 2, {_COLUMNS} FROM {{heads}} AS h WHERE "group" {{also}}
"""
_START: Final = {
    "postgresql": "statement_timestamp() - make_interval(secs => %s)",
    "sqlite": "%s",
}


class _Seen(NamedTuple):
    """The time of the newest head, None without heads; and when it was asked for.

    `at` is a time of the process: on PostgreSQL a monotonic one, and on SQLite one that can be
    compared with `newest`.
    """

    newest: Any
    at: Any


def read_changes(
    tables: Tables, since: object, groups: Collection[str], also: Collection[str]
) -> Changes:
    """See `EventLog.changes()`."""
    postgresql = tables.connection.vendor == "postgresql"
    at: Any = time.monotonic() if postgresql else _stored_now(tables)
    seen = since if isinstance(since, _Seen) else None
    most = most_changes(groups) if seen else 0
    condition, names = tables.among(also)
    sql = _SQL.format(heads=tables.heads, also=condition, start=_START[tables.connection.vendor])
    rows = tables.rows(sql, [_start(seen, at, postgresql), most + 1 if seen else 0, *names])
    newest = max((changed_at for *_, changed_at in rows), default=None)
    changed = [row for row in rows if row[0] == 1]
    now = _Seen(newest, at)
    if seen is None or len(changed) > most or _went_back(seen, now):
        return Changes(None, now)
    heads = dict.fromkeys(also, START)
    for part, group, epoch, offset, mark, _ in rows:
        if part == 2 or (part == 1 and group in groups):
            heads[group] = Position(epoch, offset, mark)
    return Changes(heads, now)


def _start(seen: _Seen | None, at: Any, postgresql: bool) -> object:
    """Return the value of `_START`: the changes after that time are new."""
    if postgresql:
        return OVERLAP_SECONDS + (at - seen.at if seen else 0)
    return str(min(seen.newest or datetime.min, seen.at)) if seen else str(at)


def _went_back(seen: _Seen, now: _Seen) -> bool:
    """Return whether a clock or the log went back; a log that lost all its heads did, too."""
    if now.at < seen.at:
        return True
    return seen.newest is not None and (now.newest is None or now.newest < seen.newest)


def _stored_now(tables: Tables) -> datetime:
    """Return the time as SQLite's driver returns it: in the time zone of the connection."""
    return datetime.fromisoformat(str(tables.now))
