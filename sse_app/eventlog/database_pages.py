"""Pages of the log in a database: the events after a position, of one group or of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..protocol.cursors import Position
from ..protocol.events import Event
from .contract import Discontinuity, EventLog, Outcome, Read, check_chain, has_events_after
from .database_numbering import stored_event
from .database_rows import Tables


def page_of(
    group: str, after: Position, head: Position, rows: Sequence[tuple[Any, ...]]
) -> list[Event]:
    """Return the events of `rows`, which were read after `head`, as `EventLog.since()` does."""
    if not has_events_after(after, head):
        return []
    if not rows or rows[0][0] != after.offset + 1:
        raise Discontinuity("trimmed", head)
    check_chain(after, rows[0][1][:-4], head)
    return [
        stored_event(group, *row).at(head.epoch, offset, marks[-4:], marks[:-4])
        for offset, marks, *row in rows
    ]


def read_pages(log: EventLog, reads: Sequence[Read], limit: int) -> list[Outcome]:
    """See `EventLog.asince_each()`. Two statements for all reads of a `log` in a database."""
    # The heads first, as in `since()`.
    heads, tables = log.heads({group for group, _ in reads}), Tables(log.alias or "default")
    wanted = ", ".join(["(CAST(%s AS integer), %s, CAST(%s AS bigint))"] * len(reads))
    values = [v for n, (group, after) in enumerate(reads) for v in (n, group, after.offset)]
    # The offsets of a group are contiguous, so the last condition is a LIMIT for each read.
    rows = tables.rows(
        f'WITH wanted("n", "in", "after") AS (VALUES {wanted}) '
        'SELECT "n", "offset", "marks", "name", "data", "excluded" FROM wanted '
        f'JOIN {tables.events} AS e ON e."group" = "in" AND e."offset" > "after" '
        'AND e."offset" <= "after" + %s '
        'ORDER BY "n", "offset"',
        [*values, limit],
    )
    pages: list[list[tuple[Any, ...]]] = [[] for _ in reads]
    for n, *row in rows:
        pages[n].append(tuple(row))
    return [
        _outcome(page_of, group, after, heads[group], page)
        for (group, after), page in zip(reads, pages, strict=True)
    ]


def _outcome(read: Callable[..., list[Event]], *args: Any) -> Outcome:
    try:
        return read(*args)
    except Exception as error:
        return error
