"""Sending broadcasts, now or when their time has come, and counting whom they reached.

Every server process looks for what is due. One of them turns the row from `scheduled` to `sent`,
and only that one publishes. With the event log in the row's own database both are one transaction;
any other log gets the events right after the commit, and a crash in that instant loses them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Final

from django.db import InterfaceError, InternalError, OperationalError, transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from ..conf import settings, written
from ..delivery.hub import running_hubs
from ..eventlog import event_log
from ..protocol.cursors import Position
from ..protocol.events import Event
from ..protocol.groups import RESERVED
from ..publishing.publish import publish_events, publish_numbered
from ..runtime.forks import at_fork
from ..runtime.telemetry import log_fields, process_name
from .models import Broadcast, BroadcastCount

#: How long after it was sent a process still counts: streams that lag or come back get it late.
COUNT_SECONDS: Final = 60.0
#: How many one call sends at most; if more are due, it says that the next is due at once.
MOST_AT_ONCE: Final = 50
#: How many groups and broadcasts are looked through for a completion.
RECENT: Final = 200
#: What the database raises when it is the database that has a problem, and not the broadcast.
DATABASE_ERRORS: Final = (OperationalError, InterfaceError, InternalError)

logger = logging.getLogger("sse_app")

#: The most that was counted here of each event of a recent broadcast, by the broadcast's key.
_counts: dict[int, dict[tuple[str, Position], int]] = {}


# --- sending ---


def send(pk: int) -> bool:
    """Send the scheduled broadcast `pk`; return whether this call did it.

    What can't be published is `failed` afterwards and says why. Inside a transaction it leaves
    with that one. Raises the database's own errors; it is then scheduled as before.
    """
    broadcast = _scheduled(pk=pk).first()
    if broadcast is None:
        return False
    try:
        events = broadcast.events()
    except Exception as error:
        # Whatever it is, it would be the same in a second.
        _fail(pk, Broadcast.State.SCHEDULED, error)
        return False
    with transaction.atomic(using=written(Broadcast).db):
        # Writing comes first: SQLite can't always turn a reading transaction into a writing one.
        sent = {"state": Broadcast.State.SENT, "sent_at": timezone.now()}
        if not _scheduled(pk=pk).update(**sent):
            return False
        if event_log().alias == written(Broadcast).db:
            _save_positions(pk, publish_numbered(events))
        else:
            publish = partial(_publish_after_commit, pk, events)
            transaction.on_commit(publish, using=written(Broadcast).db)
    return True


def try_send(pk: int) -> bool:
    """See `send()`; but nothing is raised. Where the database is away it stays scheduled."""
    try:
        try:
            return send(pk)
        except DATABASE_ERRORS:
            raise
        except Exception as error:
            logger.exception("Broadcast %s can't be sent.", pk, extra=log_fields(error=error))
            _fail(pk, Broadcast.State.SCHEDULED, error)
    except DATABASE_ERRORS:
        logger.warning(
            "Broadcast %s waits: the database gave it up.",
            pk,
            exc_info=True,
            extra=log_fields(reason="database"),
        )
    return False


def send_due() -> float | None:
    """Send what is due; return in how many seconds the next one is, None if none is scheduled.

    For a thread of every server process: to be called again after that time, and at least once a
    second for what is scheduled meanwhile. What fails keeps no other from being sent.
    """
    soonest = F("send_at").asc(nulls_first=True)
    waiting = _scheduled().order_by(soonest, "pk").values_list("pk", "send_at")
    rows = list(waiting[: MOST_AT_ONCE + 1])
    sent = 0
    for pk, send_at in rows[:MOST_AT_ONCE]:
        if send_at is not None and send_at > timezone.now():
            return (send_at - timezone.now()).total_seconds()
        sent += try_send(pk)
    # Where nothing can be sent, trying again at once would be in vain too.
    return 0.0 if sent and len(rows) > MOST_AT_ONCE else None


def cancel(pk: int) -> bool:
    """Cancel the scheduled broadcast `pk`; return False if it was sent or cancelled before."""
    return bool(_scheduled(pk=pk).update(state=Broadcast.State.CANCELLED))


def _publish_after_commit(pk: int, events: list[Event]) -> None:
    try:
        numbered = publish_events(events, using=written(Broadcast).db)
    except Exception as error:
        logger.exception(
            "Broadcast %s is lost: the event log did not take it.",
            pk,
            extra=log_fields(groups=[event.group for event in events], error=error),
        )
        _fail(pk, Broadcast.State.SENT, error)
    else:
        _save_positions(pk, numbered)


def _save_positions(pk: int, numbered: Sequence[Event]) -> None:
    places = [[e.group, e.epoch, e.offset] for e in numbered if e.offset is not None]
    written(Broadcast).filter(pk=pk).update(places=places)


def _fail(pk: int, state: Broadcast.State, error: Exception) -> None:
    said = str(error) or type(error).__name__
    rows = written(Broadcast).filter(pk=pk, state=state)
    rows.update(state=Broadcast.State.FAILED, error=said[:1000].replace("\0", ""))


def _scheduled(**fields: object) -> QuerySet[Broadcast]:
    return written(Broadcast).filter(state=Broadcast.State.SCHEDULED, **fields)


# --- counting ---


def count_deliveries() -> None:
    """Write to how many streams of this process the recent broadcasts were delivered by now.

    For a thread of every server process, once a second. A stream that listens to two groups of a
    broadcast gets it twice and counts twice. The counts only grow.
    """
    since = timezone.now() - timedelta(seconds=COUNT_SECONDS)
    recent = written(Broadcast).filter(state=Broadcast.State.SENT, sent_at__gte=since)
    rows = dict(recent.values_list("pk", "places"))
    for pk in _counts.keys() - rows.keys():
        del _counts[pk]
    for pk, places in rows.items():
        counts = _counts.setdefault(pk, {})
        before = sum(counts.values())
        for group, epoch, offset in places:
            place = Position(epoch, offset)
            reached = sum(hub.reached(group, place) for hub in running_hubs())
            # A topic whose last reader left has forgotten it.
            counts[group, place] = max(reached, counts.get((group, place), 0))
        if sum(counts.values()) > before:
            _write_count(pk, sum(counts.values()))


def _write_count(pk: int, streams: int) -> None:
    written(BroadcastCount).update_or_create(
        broadcast_id=pk,
        process=process_name(),
        defaults={"streams": streams, "counted_at": timezone.now()},
    )


def known_groups(text: str, most: int) -> list[str]:
    """Return at most `most` names that have `text` in them, those first that begin with it.

    Known are the groups that the log has, that somebody here listens to, that are public by name,
    and to which something was broadcast of late.
    """
    found = {group for group in settings().PUBLIC_GROUPS if "*" not in group}
    found.update(group for hub in running_hubs() for group in list(hub.topics))
    for groups in written(Broadcast).values_list("groups", flat=True)[:RECENT]:
        found.update(groups)
    try:
        found.update(event_log().known(text, RECENT))
    except Exception as error:
        logger.warning(
            "The event log does not say which groups it has: %r",
            error,
            extra=log_fields(error=error),
        )
    fitting = (group for group in found if text in group and not group.startswith(RESERVED))
    return sorted(fitting, key=lambda group: (not group.startswith(text), group))[:most]


# A child is another process, and has delivered nothing.
at_fork(_counts.clear)
