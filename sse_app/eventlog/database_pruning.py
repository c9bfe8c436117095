"""Deletes events beyond retention from the database log, in steps.

`created_at` is set when a row is staged, its offset after the commit, so dates are not monotonic
in offset. Only ever delete a prefix of a group's log; deleting by date alone would leave gaps.
Every step is a short transaction that takes no lock that publishers need.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain
from math import isfinite
from typing import Final

from django.db import OperationalError, connections
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from ..conf import settings, stored_time
from ..runtime.transactions import impatient
from .contract import HEAD_RETENTION_FACTOR
from .database_locks import KNOWN_SECONDS, is_lock_timeout
from .database_rows import tuples
from .models import GroupHead, StoredEvent
from .retention import retained_count, retention_seconds

STEP_ROWS: Final = 500


def prune_rows(alias: str, limit: int | None) -> int:
    """See `EventLog.prune()`."""
    age = retention_seconds()
    pruned = 0
    while limit is None or pruned < limit:
        left = STEP_ROWS if limit is None else min(STEP_ROWS, limit - pruned)
        step = _step(alias, _before(age), left)
        pruned += step
        if not step:
            _delete_idle_heads(alias, _before(age * HEAD_RETENTION_FACTOR))
            break
    return pruned


def _before(age: float) -> datetime:
    """Return the time at which what has this age now was written."""
    return timezone.now() - timedelta(seconds=age) if isfinite(age) else stored_time(0)


def _step(alias: str, before: datetime, most: int) -> int:
    """Delete at most `most` events, the first ones of their groups; return how many."""
    lasts: dict[str, int] = {}
    for group, first, last in chain(_too_many(alias, before), _too_old(alias, before)):
        if most > 0 and first <= last and group not in lasts:
            lasts[group] = min(last, first + most - 1)
            most -= lasts[group] - first + 1
    if not lasts:
        return 0
    deleted = _delete(alias, lasts)
    if deleted is None:  # Another session of the database has locked a row: skip its group.
        deleted = sum(_delete(alias, {group: last}) or 0 for group, last in lasts.items())
    return deleted


def _delete(alias: str, lasts: dict[str, int]) -> int | None:
    """Delete the events up to each group's offset; None, and nothing, if a row stays locked."""
    table = connections[alias].ops.quote_name(StoredEvent._meta.db_table)
    try:
        with impatient(alias, KNOWN_SECONDS), connections[alias].cursor() as cursor:
            cursor.execute(
                f'DELETE FROM {table} WHERE "id" IN ('
                f'WITH v ("group", "last") AS (VALUES {tuples(len(lasts), 2)}) '
                f'SELECT e."id" FROM v CROSS JOIN {table} e '
                'WHERE e."group" = v."group" AND e."offset" <= v."last")',
                [value for last in lasts.items() for value in last],
            )
            return int(cursor.rowcount)
    except OperationalError as error:
        if not is_lock_timeout(error):
            raise
        return None


def _too_many(alias: str, before: datetime) -> Iterator[tuple[str, int, int]]:
    """Yield groups with more events than are kept, the first offset, and the last one to delete.

    Only groups of the retention's time: older groups have no event left that age keeps.
    """
    bound = F("offset") - settings().RETENTION_EVENTS
    heads = _with_first(alias).filter(changed_at__gte=before).annotate(bound=bound)
    beyond = StoredEvent.objects.filter(group=OuterRef("group"), offset__lte=OuterRef("bound"))
    found = heads.filter(Exists(beyond), offset__gt=settings().RETENTION_EVENTS)
    yield from found.values_list("group", "first", "bound")[:STEP_ROWS]


def _too_old(alias: str, before: datetime) -> Iterator[tuple[str, int, int]]:
    """Yield groups with events that are too old, the first offset, and the last one to delete."""
    rows = StoredEvent.objects.using(alias).filter(offset__isnull=False)
    # Rows of `RETAIN` stay. Without the exclusion, `STEP_ROWS` of them would fill every step.
    old = rows.filter(created_at__lt=before).exclude(_retained_rows(alias)).order_by("created_at")
    groups = set(old.values_list("group", flat=True)[:STEP_ROWS])
    young = StoredEvent.objects.filter(group=OuterRef("group"), created_at__gte=before)
    kept = young.filter(offset__isnull=False).order_by("offset").values("offset")[:1]
    heads = _with_first(alias).filter(group__in=groups).annotate(kept=Subquery(kept))
    for group, first, last, kept_from in heads.values_list("group", "first", "offset", "kept"):
        bound = last if kept_from is None else kept_from - 1
        yield group, first, min(last - retained_count(group), bound)


def _with_first(alias: str) -> QuerySet[GroupHead]:
    """Return the heads with the offset of the first event, 1 above the head without events."""
    own = StoredEvent.objects.filter(group=OuterRef("group"), offset__isnull=False)
    first = Subquery(own.order_by("offset").values("offset")[:1])
    return GroupHead.objects.using(alias).annotate(first=Coalesce(first, F("offset") + 1))


def _retained_rows(alias: str) -> Q:
    """Return the condition of the last rows of groups that `RETAIN` keeps."""
    heads = GroupHead.objects.using(alias).filter(group=OuterRef("group")).values("offset")[:1]
    retained = Q(pk__in=[])
    for pattern, count in settings().RETAIN.items():
        name = ".*".join(map(re.escape, pattern.split("*")))
        # In front of the own name there may be a namespace, as `protocol.groups.matches()` permits.
        full = rf"^(_[^.]*\.)?{name}$"
        retained |= Q(group__regex=full, offset__gt=Subquery(heads) - count)
    return retained


def _delete_idle_heads(alias: str, before: datetime) -> None:
    # One statement, so that a publisher that writes to the group meanwhile keeps its head. Locked
    # heads are skipped: the statement locks in another order than publishers, so waiting for one
    # could deadlock.
    connection = connections[alias]
    quote = connection.ops.quote_name
    heads, rows = quote(GroupHead._meta.db_table), quote(StoredEvent._meta.db_table)
    skips = connection.features.has_select_for_update_skip_locked
    with connection.cursor() as cursor:
        cursor.execute(
            f'DELETE FROM {heads} WHERE "group" IN (SELECT "group" FROM {heads} h '
            'WHERE h."changed_at" < %s AND NOT EXISTS '
            f'(SELECT 1 FROM {rows} e WHERE e."group" = h."group") '
            f"{'FOR UPDATE SKIP LOCKED' if skips else ''})",
            [connection.ops.adapt_datetimefield_value(before)],
        )
