"""Numbering: staged, committed events get their offsets, and new events get theirs after these.

A *numbering pass* is a short transaction of several statements. PostgreSQL does the same for staged
events in one round trip; the marks of these events are then random bytes of the database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Final

from ..protocol.cursors import MARK_LETTERS
from ..protocol.events import Event
from ..runtime.transactions import impatient
from .contract import new_epoch, new_mark, number
from .database_rows import CHUNK_ROWS, CLOCK, HEAD_COLUMNS, LOCK_HEAD, Tables, portions

_LETTER: Final = f"substr('{MARK_LETTERS}', 1 + (get_byte(r, {{place}}) & {{bits}}), 1)"
_MARK: Final = " || ".join(
    _LETTER.format(place=place, bits=bits) for place, bits in enumerate((15, 31, 31, 31))
)

#: Two statements, sent together: the second one has a snapshot of its own, after the heads are
#: locked, so it has no events that another session has numbered. It numbers groups whose heads the
#: first one has locked: `xmin` is the transaction that wrote a row last.
_SQL: Final = f"""
INSERT INTO {{heads}} AS h ({HEAD_COLUMNS})
SELECT v.* FROM (VALUES {{groups}}) AS v ({HEAD_COLUMNS})
WHERE set_config('lock_timeout', '{{timeout}}', true) <> '' AND EXISTS (
    SELECT 1 FROM {{events}} w WHERE w."offset" IS NULL AND w."group" = v."group"
)
ORDER BY v."group" COLLATE "C"
{LOCK_HEAD};
WITH waiting AS (
    SELECT e."id", e."group", h."epoch", h."previous", uuid_send(gen_random_uuid()) AS r,
        h."offset" + row_number() OVER (PARTITION BY e."group" ORDER BY e."id") AS "offset"
    FROM {{events}} e JOIN {{heads}} h ON h."group" = e."group"
    WHERE e."offset" IS NULL AND e."group" = ANY(%s) AND h.xmin = pg_current_xact_id()::xid
), marked AS (
    SELECT "id", "group", "epoch", "offset", "previous", {_MARK} AS "mark" FROM waiting
), chained AS (
    SELECT "id", "epoch", "offset", "mark", COALESCE(
        lag("mark") OVER (PARTITION BY "group" ORDER BY "offset"), "previous"
    ) AS "previous" FROM marked
), moved AS (
    UPDATE {{heads}} h SET "offset" = l."offset", "marked" = l."offset", "mark" = l."mark"
    FROM (
        SELECT DISTINCT ON ("group") "group", "offset", "mark" FROM marked
        ORDER BY "group", "offset" DESC
    ) l WHERE h."group" = l."group"
)
UPDATE {{events}} e SET "offset" = c."offset", "marks" = c."previous" || c."mark"
FROM chained c WHERE e."id" = c."id"
RETURNING e."id", e."group", e."name", e."data", e."excluded",
    c."epoch", c."offset", c."mark", c."previous"
"""


def stored_event(group: str, name: str, data: bytes | memoryview, excluded: str) -> Event:
    """Return the event of a row, without its position."""
    return Event(group=group, name=name, data=bytes(data).decode()).exclude_stored(excluded)


def waiting_groups(tables: Tables, groups: Collection[str] | None) -> list[str]:
    """Return the groups (None: all) with staged, committed events; at most `CHUNK_ROWS` of all."""
    sql = f'SELECT DISTINCT "group" FROM {tables.events} WHERE "offset" IS NULL'
    if groups is None:
        return [group for (group,) in tables.rows(f"{sql} LIMIT {CHUNK_ROWS}", [])]
    if not groups:
        return []
    among, values = tables.among(groups)
    return [group for (group,) in tables.rows(f'{sql} AND "group" {among}', values)]


def numbering_pass(
    tables: Tables, groups: Collection[str], events: Sequence[Event], seconds: float
) -> list[Event]:
    """Number the staged events of `groups` and store `events`; return all of them, these last."""
    with impatient(tables.connection.alias, seconds):
        marked = [(event, new_mark()) for event in events]
        last = {event.group: mark for event, mark in marked}
        heads, waiting = tables.lock(groups, Counter(event.group for event in events), last)
        rows: list[tuple[Any, ...]] = []
        if waiting:
            among, values = tables.among(waiting)
            rows = tables.rows(
                f'SELECT "id", "group", "name", "data", "excluded" FROM {tables.events} '
                f'WHERE "offset" IS NULL AND "group" {among} ORDER BY "id"',
                values,
            )
        staged = number([(stored_event(*row), new_mark()) for _, *row in rows], heads)
        numbered = number(marked, heads)
        if staged:
            tables.number([pk for pk, *_ in rows], staged, heads)
        tables.insert(numbered)
    return staged + numbered


def number_in_one_round_trip(
    tables: Tables, groups: Collection[str], seconds: float
) -> list[Event]:
    """Number the staged events of `groups` on PostgreSQL, in autocommit; return them.

    Waits up to `seconds` for each head, in the order of the bytes of their names.
    """
    numbered: list[Event] = []
    for some in portions(sorted(groups)):
        sql = _SQL.format(
            heads=tables.heads,
            events=tables.events,
            timeout=f"{seconds * 1000:.0f}",
            groups=", ".join([f"(%s, %s, 0::bigint, {CLOCK}, ''::text, 0::bigint)"] * len(some)),
            now=CLOCK,
        )
        values = [value for group in some for value in (group, new_epoch())]
        rows = sorted(tables.last_rows(sql, [*values, some]))
        numbered += [
            stored_event(group, name, data, excluded).at(*position)
            for _, group, name, data, excluded, *position in rows
        ]
    return numbered
