"""Deletes events beyond retention from the database log, in steps.

`created_at` is set when a row is staged, its offset after the commit, so dates are not monotonic
in offset. Only ever delete a prefix of a group's log; deleting by date alone would leave gaps.
Every step is a short transaction that takes no lock that publishers need.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Final

from django.db import OperationalError, connections
from django.db.models import F, OuterRef, Q, QuerySet, Subquery
from django.utils import timezone

from ..conf import settings
from ..runtime.transactions import impatient
from .contract import HEAD_RETENTION_FACTOR
from .database_locks import KNOWN_SECONDS, is_lock_timeout
from .models import GroupHead, StoredEvent
from .retention import retained_count, retention_seconds

STEP_ROWS: Final = 500
#: Before every event.
NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


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
    return timezone.now() - timedelta(seconds=age) if isfinite(age) else NEVER


def _step(alias: str, before: datetime, most: int) -> int:
    pruned = 0
    for group, last in _prunable(alias, before):
        rows = StoredEvent.objects.using(alias).filter(group=group, offset__isnull=False)
        first = rows.order_by("offset").values_list("offset", flat=True).first()
        if first is not None and first <= last:
            last = min(last, first + most - pruned - 1)
            pruned += _delete(alias, rows.filter(offset__lte=last))
        if pruned >= most:
            break
    return pruned


def _delete(alias: str, rows: QuerySet[StoredEvent]) -> int:
    """Delete `rows`, unless another session of the database has locked one; return how many."""
    try:
        with impatient(alias, KNOWN_SECONDS):
            return rows.delete()[0]
    except OperationalError as error:
        if not is_lock_timeout(error):
            raise
        return 0


def _prunable(alias: str, before: datetime) -> Iterator[tuple[str, int]]:
    """Yield groups and, for each, the last offset that is beyond retention."""
    rows = StoredEvent.objects.using(alias).filter(offset__isnull=False)
    of_group = rows.filter(group=OuterRef("group")).order_by("offset").values("offset")
    heads = GroupHead.objects.using(alias).annotate(first=Subquery(of_group[:1]))
    bound = F("offset") - settings().RETENTION_EVENTS
    for group, last in heads.filter(first__lte=bound).values_list("group", bound)[:STEP_ROWS]:
        yield group, last
    # Rows of `RETAIN` stay. Without the exclusion, `STEP_ROWS` of them would fill every step.
    old = rows.filter(created_at__lt=before).exclude(_retained_rows(alias)).order_by("created_at")
    for group in dict.fromkeys(old.values_list("group", flat=True)[:STEP_ROWS]):
        own = rows.filter(group=group).order_by("offset")
        kept = own.filter(created_at__gte=before).values_list("offset", flat=True).first()
        last = own.values_list("offset", flat=True).last()
        if last is not None:
            yield group, min(last - retained_count(group), last if kept is None else kept - 1)


def _retained_rows(alias: str) -> Q:
    """Return the condition of the last rows of groups that `RETAIN` keeps."""
    heads = GroupHead.objects.using(alias).filter(group=OuterRef("group")).values("offset")[:1]
    retained = Q(pk__in=[])
    for pattern, count in settings().RETAIN.items():
        name = ".*".join(map(re.escape, pattern.split("*")))
        retained |= Q(group__regex=f"^{name}$", offset__gt=Subquery(heads) - count)
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
