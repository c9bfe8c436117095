"""Appending on PostgreSQL in one statement: one round trip and one COMMIT.

Nearly always no staged event waits for its offset, and one statement then does the work of a
numbering pass. The statement's own snapshot decides: if it has a staged row that was committed
before the publish began, the statement writes nothing, and the caller runs a pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from ..protocol.cursors import Position, new_epoch
from ..protocol.events import Event

#: With more events, one round trip less makes no difference, and the statement grows.
MOST_EVENTS: Final = 1000

_SQL: Final = """
WITH head AS (
    INSERT INTO {heads} AS h ("group", "epoch", "offset", "changed_at")
    SELECT v.* FROM (VALUES {groups}) AS v ("group", "epoch", "offset", "changed_at")
    WHERE NOT EXISTS (
        SELECT 1 FROM {events} w WHERE w."offset" IS NULL AND w."group" IN ({names})
    )
    ORDER BY v."group"
    ON CONFLICT ("group") DO UPDATE
    SET "offset" = h."offset" + excluded."offset", "changed_at" = excluded."changed_at"
    RETURNING h."group", h."epoch", h."offset"
), stored AS (
    INSERT INTO {events} ("group", "offset", "name", "data", "created_at")
    SELECT e."group", head."offset" - e."left", e."name", e."data", e."at"
    FROM (VALUES {rows}) AS e ("group", "left", "name", "data", "at")
    JOIN head ON head."group" = e."group"
)
SELECT "group", "epoch", "offset" FROM head
"""


def append_in_one_statement(
    connection: Any, tables: tuple[str, str], events: Sequence[Event], now: object
) -> list[Event] | None:
    """Store `events` and return them with offsets; None, and nothing stored, if staged ones wait.

    `tables` are the quoted table names of heads and events. The statement locks the heads in the
    order of their names, as a pass does.
    """
    added = Counter(event.group for event in events)
    left = dict(added)
    groups: list[object] = [
        value for name in sorted(added) for value in (name, new_epoch(), added[name], now)
    ]
    rows: list[object] = []
    for event in events:
        left[event.group] -= 1
        rows += [event.group, left[event.group], event.name, event.data.encode(), now]
    sql = _SQL.format(
        heads=tables[0],
        events=tables[1],
        groups=", ".join(["(%s, %s, %s::bigint, %s::timestamptz)"] * len(added)),
        names=", ".join(["%s"] * len(added)),
        rows=", ".join(["(%s, %s::bigint, %s, %s::bytea, %s::timestamptz)"] * len(events)),
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [*groups, *sorted(added), *rows])
        heads = {group: Position(epoch, offset) for group, epoch, offset in cursor.fetchall()}
    return _numbered(events, heads, added) if heads else None


def _numbered(
    events: Sequence[Event], heads: dict[str, Position], added: Counter[str]
) -> list[Event]:
    offsets = {group: head.offset - added[group] for group, head in heads.items()}
    numbered = []
    for event in events:
        offsets[event.group] += 1
        numbered.append(event.at(heads[event.group].epoch, offsets[event.group]))
    return numbered
