"""Sends broadcasts, now or at their time, and counts their deliveries.

Every server process looks for due broadcasts, when it is told of a change and at their times. The
process that changes a row from `scheduled` to `sent` publishes it. If the event log is in the
database of the row, both are one transaction. Any other log gets the events right after the commit;
a crash in between loses them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final

from django.db import InterfaceError, InternalError, OperationalError, transaction
from django.db.models import F, QuerySet
from django.db.models.signals import post_save
from django.utils import timezone

from ..conf import settings, written
from ..delivery.hub import running_hubs
from ..eventlog import event_log
from ..protocol.cursors import Position
from ..protocol.events import Event
from ..protocol.groups import RESERVED
from ..publishing.publish import publish_events, publish_numbered
from ..publishing.waking import wake_processes
from ..runtime.duties import DUTIES
from ..runtime.forks import at_fork
from ..runtime.telemetry import log_fields, process_name
from .models import Broadcast, BroadcastCount

#: How long deliveries are counted after the sending: streams that lag or reconnect get it late.
COUNT_SECONDS: Final = 60.0
TICK_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 1.0
#: The most broadcasts that one call sends; if more are due, it returns 0 seconds.
MOST_AT_ONCE: Final = 50
#: From how many broadcasts, and how many groups of the log, names are completed.
RECENT: Final = 200
#: Errors of the database itself, after which the same broadcast can be sent later.
DATABASE_ERRORS: Final = (OperationalError, InterfaceError, InternalError)

logger = logging.getLogger("sse_app")

#: The deliveries in this process of each event of a recent broadcast, by the broadcast's key.
_counts: dict[int, dict[tuple[str, Position], int]] = {}


# --- sending ---


def connect_signals() -> None:
    """Wake the processes when a broadcast is scheduled; called once the apps are ready."""
    post_save.connect(_saved, sender=Broadcast, dispatch_uid="sse_app")


def _saved(sender: Any, instance: Broadcast, using: str, raw: bool, **kwargs: Any) -> None:
    if not raw and instance.state == Broadcast.State.SCHEDULED and instance.send_at is not None:
        wake_processes(using=using)


def send(pk: int) -> bool:
    """Send the scheduled broadcast `pk`; return whether this call sent it.

    A broadcast that can't be published becomes `failed`, with the error. Inside a transaction the
    events leave with its commit. Raises the errors of the database; the broadcast stays scheduled.
    """
    broadcast = _scheduled(pk=pk).first()
    if broadcast is None:
        return False
    try:
        events = broadcast.events()
    except Exception as error:
        # A later attempt would raise the same error.
        _fail(pk, Broadcast.State.SCHEDULED, error)
        return False
    with transaction.atomic(using=written(Broadcast).db):
        # Write first: SQLite can't always turn a reading transaction into a writing one.
        sent = {"state": Broadcast.State.SENT, "sent_at": timezone.now()}
        if not _scheduled(pk=pk).update(**sent):
            return False
        if event_log().alias == written(Broadcast).db:
            _save_positions(pk, publish_numbered(events))
        else:
            publish = partial(_publish_after_commit, pk, events)
            transaction.on_commit(publish, using=written(Broadcast).db)
        wake_processes(using=written(Broadcast).db)  # To count the deliveries.
    return True


def try_send(pk: int) -> bool:
    """Send as `send()` does and log its errors; after one of the database it stays scheduled."""
    try:
        try:
            return send(pk)
        except DATABASE_ERRORS:
            raise
        except Exception as error:
            logger.exception("Broadcast %s can't be sent.", pk, extra=log_fields(error=error))
            _fail(pk, Broadcast.State.SCHEDULED, error)
    except DATABASE_ERRORS:
        DUTIES.soon(send_due, RETRY_SECONDS)
        logger.warning(
            "Broadcast %s stays scheduled: the database failed.",
            pk,
            exc_info=True,
            extra=log_fields(reason="database"),
        )
    return False


def send_due() -> float | None:
    """Send due broadcasts; return the seconds until the next one, None if none is scheduled.

    A duty of every server process. A broadcast that fails does not stop the others.
    """
    soonest = F("send_at").asc(nulls_first=True)
    waiting = _scheduled().order_by(soonest, "pk").values_list("pk", "send_at")
    rows = list(waiting[: MOST_AT_ONCE + 1])
    sent = 0
    for pk, send_at in rows[:MOST_AT_ONCE]:
        if send_at is not None and send_at > timezone.now():
            return (send_at - timezone.now()).total_seconds()
        sent += try_send(pk)
    if len(rows) > MOST_AT_ONCE:
        # If none could be sent, an immediate second call would fail too.
        return 0.0 if sent else RETRY_SECONDS
    return None


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
    text = str(error) or type(error).__name__
    rows = written(Broadcast).filter(pk=pk, state=state)
    rows.update(state=Broadcast.State.FAILED, error=text[:1000].replace("\0", ""))


def _scheduled(**fields: object) -> QuerySet[Broadcast]:
    return written(Broadcast).filter(state=Broadcast.State.SCHEDULED, **fields)


# --- counting ---


def count_deliveries() -> float | None:
    """Write the number of streams of this process to which each recent broadcast was delivered.

    A duty of every server process, each second while there is such a broadcast. A stream of two
    groups of a broadcast gets it twice and counts twice. The counts only grow.
    """
    if not running_hubs() and not _counts:
        return None  # Without streams there are no deliveries.
    since = timezone.now() - timedelta(seconds=COUNT_SECONDS)
    recent = written(Broadcast).filter(state=Broadcast.State.SENT, sent_at__gte=since)
    rows = dict(recent.values_list("pk", "places"))
    for pk in _counts.keys() - rows.keys():
        del _counts[pk]
    for pk, places in rows.items():
        counts = _counts.setdefault(pk, {})
        before = sum(counts.values())
        for group, epoch, offset in places:
            position = Position(epoch, offset)
            reached = sum(hub.reached(group, position) for hub in running_hubs())
            # The number of a topic is lost when its last reader leaves.
            counts[group, position] = max(reached, counts.get((group, position), 0))
        if sum(counts.values()) > before:
            _write_count(pk, sum(counts.values()))
    return TICK_SECONDS if rows else None


def _write_count(pk: int, streams: int) -> None:
    written(BroadcastCount).update_or_create(
        broadcast_id=pk,
        process=process_name(),
        defaults={"streams": streams, "counted_at": timezone.now()},
    )


def known_groups(text: str, most: int) -> list[str]:
    """Return at most `most` names of groups that contain `text`, first those that begin with it.

    The names are those of the log, of the open streams of this process, of `PUBLIC_GROUPS` without
    patterns, and of recent broadcasts.
    """
    found = {group for group in settings().PUBLIC_GROUPS if "*" not in group}
    found.update(group for hub in running_hubs() for group in list(hub.topics))
    for groups in written(Broadcast).values_list("groups", flat=True)[:RECENT]:
        found.update(groups)
    try:
        found.update(event_log().known(text, RECENT))
    except Exception as error:
        logger.warning(
            "The event log can't list its groups: %r",
            error,
            extra=log_fields(error=error),
        )
    matching = (group for group in found if text in group and not group.startswith(RESERVED))
    return sorted(matching, key=lambda group: (not group.startswith(text), group))[:most]


# A forked child has delivered nothing.
at_fork(_counts.clear)
