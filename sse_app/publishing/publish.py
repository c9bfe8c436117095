"""`publish()` and its twins: into the event log, then on the channel layer."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import perf_counter

from asgiref.sync import sync_to_async
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from ..conf import settings
from ..eventlog import event_log
from ..protocol.events import Event
from ..runtime.telemetry import COUNTS, log_fields
from . import outbox

logger = logging.getLogger("sse_app")


def publish(
    group: str,
    event: str,
    data: object = "",
    *,
    durable: bool = True,
    key: str | None = None,
    using: str | None = None,
    immediate: bool = False,
) -> Event:
    """Publish one event to the subscribers of `group` and return it.

    `data`: a `str` goes out as it is, everything else as JSON by Django's encoder.
    `durable=False`: not logged, has no id, is never replayed; a reader that lags gets only the
    latest per `key`.

    Inside `transaction.atomic()` on the database `using` (default: `"default"`) or on the log's
    own it leaves only if that transaction commits, and the event returned has no offset yet. Where
    the log is in that same database it is part of the transaction and leaves whenever that
    commits; any other log gets it right after the commit, and a crash in that instant loses it.
    `immediate=True`, for events that are not durable, leaves at once.

    Blocks for the log's I/O: in async code use `apublish()`. Raises `ValueError` for an invalid
    or reserved group or event name or an event beyond `MAX_EVENT_BYTES`, `TypeError` for data that
    can't be JSON, and outside a transaction the log's own errors; nothing is published then.
    """
    made = _make(group, event, data, durable=durable, key=key)
    return _publish([made], using=using, immediate=_checked(immediate, durable))[0]


async def apublish(
    group: str,
    event: str,
    data: object = "",
    *,
    durable: bool = True,
    key: str | None = None,
    using: str | None = None,
    immediate: bool = False,
) -> Event:
    """See `publish()`. Runs where Django's own async database calls run."""
    made = _make(group, event, data, durable=durable, key=key)
    send = sync_to_async(_publish)
    return (await send([made], using=using, immediate=_checked(immediate, durable)))[0]


def publish_many(
    events: Iterable[tuple[str, str, object]],
    *,
    durable: bool = True,
    using: str | None = None,
    immediate: bool = False,
) -> list[Event]:
    """Publish `(group, event, data)` triples in one round trip to the log. See `publish()`.

    All or none are published; the order within each group is the order given.
    """
    made = [_make(*event, durable=durable, key=None) for event in events]
    return _publish(made, using=using, immediate=_checked(immediate, durable))


async def apublish_many(
    events: Iterable[tuple[str, str, object]],
    *,
    durable: bool = True,
    using: str | None = None,
    immediate: bool = False,
) -> list[Event]:
    """See `publish_many()`."""
    made = [_make(*event, durable=durable, key=None) for event in events]
    send = sync_to_async(_publish)
    return await send(made, using=using, immediate=_checked(immediate, durable))


def publish_events(
    events: list[Event], *, using: str | None = None, immediate: bool = False
) -> list[Event]:
    """Publish events as they are, for the app's own: nothing is checked. See `publish()`."""
    return _publish(events, using=using, immediate=immediate)


def publish_numbered(events: list[Event]) -> list[Event]:
    """Publish durable events in the transaction open on the log's own database, for the app's own.

    Returned with their places, which nobody else sees before the commit. Until then whoever
    publishes to their groups waits: `publish()` does not do so, and only a short transaction may.
    """
    log = event_log()
    numbered = log.append(events)
    transaction.on_commit(lambda: outbox.send(numbered), using=log.alias, robust=True)
    return numbered[-len(events) :]


def publish_in_transaction(
    events: Iterable[tuple[str, str, object]], *, using: str, last: bool = False
) -> None:
    """Publish triples in the transaction open on `using`, for the app's own. See `publish_many()`.

    `last`: nothing but the commit follows. SQLite has one writer, so the events may have their
    places then without anybody waiting for it, and need not be written and read once more.
    """
    made = [_make(*event, durable=True, key=None) for event in events]
    if last and event_log().alias == using and connections[using].vendor == "sqlite":
        publish_numbered(made)
    else:
        _publish(made, using=using, immediate=False)


def _make(group: str, name: str, data: object, *, durable: bool, key: str | None) -> Event:
    event = Event.of(group, name, data, durable=durable, key=key)
    return event.limited(settings().MAX_EVENT_BYTES)


def _checked(immediate: bool, durable: bool) -> bool:
    if immediate and durable:
        raise ValueError(
            "immediate=True requires durable=False: the log can't be written past the transaction "
            "that is open (a second SQLite connection would wait for the first for ever)."
        )
    return immediate


def _publish(events: list[Event], *, using: str | None, immediate: bool) -> list[Event]:
    """Publish now or with the transaction; the events are all durable or all not."""
    if not events:
        return []
    log = event_log()
    alias = using or DEFAULT_DB_ALIAS
    if immediate:
        return _publish_now(events)
    # Each publish has its own callback: the first one's may go with a savepoint rolled back.
    durable = events[0].durable
    if connections[alias].in_atomic_block and not (durable and alias == log.alias):
        transaction.on_commit(lambda: _publish_after_commit(events), using=alias, robust=True)
        return events
    if durable and log.alias is not None and connections[log.alias].in_atomic_block:
        log.stage(events)
        groups = {event.group for event in events}
        transaction.on_commit(lambda: _number(groups), using=log.alias, robust=True)
        return events
    return _publish_now(events)


def _publish_now(events: list[Event]) -> list[Event]:
    if not events[0].durable:
        outbox.send(events)
        return events
    began = perf_counter()
    numbered = event_log().append(events)
    COUNTS.publish_seconds.observe(perf_counter() - began)
    outbox.send(numbered)
    return numbered[-len(events) :]


def _number(groups: Iterable[str]) -> None:
    """Number what the transaction staged; the first callback of a transaction numbers all."""
    try:
        began = perf_counter()
        numbered = event_log().number(set(groups))
        COUNTS.publish_seconds.observe(perf_counter() - began)
    except Exception:
        logger.warning(
            "Committed events of %s wait for the next sweep: they could not be numbered now.",
            ", ".join(sorted(groups)),
            exc_info=True,
            extra=log_fields(groups=groups),
        )
    else:
        outbox.send(numbered)


def _publish_after_commit(events: list[Event]) -> None:
    try:
        log = event_log()
        if events[0].durable and log.alias is not None:
            # The log's own database may be in a transaction too: then with that one's commit.
            _publish(events, using=log.alias, immediate=False)
        else:
            _publish_now(events)
    except Exception:
        logger.exception(
            "Lost %d event(s) of a committed transaction: the event log did not take them.",
            len(events),
            extra=log_fields(groups={event.group for event in events}, events=len(events)),
        )
