"""`publish()` and its twins: into the event log, then on the channel layer."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from time import perf_counter

from django.db import DEFAULT_DB_ALIAS, connections, transaction

from ..conf import namespace, settings, within_namespace
from ..eventlog import PartlyStored, event_log
from ..protocol.events import Event, Excluded
from ..protocol.groups import CONTROL_GROUP, Group, full_name
from ..runtime.callables import blocking, in_callers_thread
from ..runtime.rare_logs import RareLog
from ..runtime.telemetry import COUNTS, log_fields
from ..runtime.transactions import in_atomic
from . import group_commit, outbox
from .after_commit import Batch, number_when_committed, when_committed
from .on_loop import queue_of_loop
from .senders import pages_of

logger = logging.getLogger("sse_app")
_lost_log = RareLog(logger, logging.ERROR)
_incomplete_log = RareLog(logger, logging.ERROR)


@blocking
def publish(
    group: Group,
    event: str,
    data: object = "",
    *,
    durable: bool = True,
    key: str | None = None,
    using: str | None = None,
    immediate: bool = False,
    exclude: object = None,
) -> Event:
    """Publish one event to the subscribers of `group` and return it.

    `group`: a name, or a saved model instance, whose group is named `<app>.<model>.<key>`.
    `data`: a `str` is sent unchanged, any other object as JSON by Django's encoder.
    `durable=False`: the event is not logged, has no id and is never replayed; a reader that lags
    gets only the latest event per `key`.

    `exclude`: the request or the `Message` that causes the event. The page that sent it, and named
    its streams in the header `Sse-Connection`, does not get the event; its cursor moves on. Other
    tabs of the user get the event. Raises `TypeError` for anything else.

    Inside `transaction.atomic()` on the database `using` (default: `"default"`) or on the log's
    database, the event leaves only if that transaction commits, and the returned event has no
    offset yet. If the log is in the same database, the event is part of the transaction and leaves
    whenever that commits. Any other log gets the event right after the commit; a crash in between
    loses it. If the database refuses the row, the transaction is usable after the exception, by a
    savepoint. `immediate=True`, only with `durable=False`, does not wait for the transaction.

    Blocks for the log's I/O: in async code use `apublish()`. Raises `ValueError` for an invalid
    or reserved group or event name or an event beyond `MAX_EVENT_BYTES`, `TypeError` for data that
    can't be JSON, and outside a transaction the log's errors; nothing is published then,
    unless the error is a `PartlyStored`. After a commit nothing raises: the logger `sse_app` names
    the events that were lost, at most once a minute. While
    autocommit is off for one of the two databases, `publish()` raises Django's
    `TransactionManagementError`, as `transaction.on_commit()` does.
    """
    made = _make(group, event, data, durable=durable, key=key, pages=pages_of(exclude))
    return _publish([made], using=using, immediate=_checked(immediate, durable))[0]


async def apublish(
    group: Group,
    event: str,
    data: object = "",
    *,
    durable: bool = True,
    key: str | None = None,
    using: str | None = None,
    immediate: bool = False,
    exclude: object = None,
) -> Event:
    """See `publish()`. Joins a transaction in the thread of Django's async database calls."""
    now = _checked(immediate, durable)
    made = await _amake([(group, event, data)], durable=durable, key=key, exclude=exclude)
    return (await _apublish(made, durable=durable, using=using, immediate=now))[0]


@blocking
def publish_many(
    events: Iterable[tuple[Group, str, object]],
    *,
    durable: bool = True,
    using: str | None = None,
    immediate: bool = False,
    exclude: object = None,
) -> list[Event]:
    """Publish `(group, event, data)` triples in one round trip to the log. See `publish()`.

    All or none are published, in the order given within each group.
    """
    pages = pages_of(exclude)
    made = [_make(*event, durable=durable, key=None, pages=pages) for event in events]
    return _publish(made, using=using, immediate=_checked(immediate, durable))


async def apublish_many(
    events: Iterable[tuple[Group, str, object]],
    *,
    durable: bool = True,
    using: str | None = None,
    immediate: bool = False,
    exclude: object = None,
) -> list[Event]:
    """See `publish_many()`."""
    now = _checked(immediate, durable)
    made = await _amake(events, durable=durable, key=None, exclude=exclude)
    return await _apublish(made, durable=durable, using=using, immediate=now)


def publish_events(
    events: list[Event], *, using: str | None = None, immediate: bool = False
) -> list[Event]:
    """Publish events of the app without checks. See `publish()`."""
    return _publish(events, using=using, immediate=immediate)


def publish_numbered(events: list[Event]) -> list[Event]:
    """Publish durable events in the transaction open on the log's database; return their positions.

    This takes the offsets now, so the groups' head rows stay locked until the commit and other
    publishers wait. Use it only in short transactions; `publish()` avoids it by numbering after
    the commit.
    """
    log = event_log()
    numbered = log.append(events)
    transaction.on_commit(lambda: outbox.send(numbered), using=log.alias, robust=True)
    return numbered[-len(events) :]


def publish_in_transaction(
    events: Iterable[tuple[Group, str, object]], *, using: str, last: bool = False
) -> None:
    """Publish triples in the transaction open on `using`. See `publish_many()`.

    `last`: the commit follows immediately. On SQLite, which has one writer, the events then get
    their offsets now: no other publisher waits longer for it, and the rows are written once.
    """
    made = [_make(*event, durable=True, key=None) for event in events]
    if last and event_log().alias == using and connections[using].vendor == "sqlite":
        publish_numbered(made)
    else:
        _publish(made, using=using, immediate=False)


def _make(
    group: Group,
    name: str,
    data: object,
    *,
    durable: bool,
    key: str | None,
    pages: tuple[Excluded, ...] = (),
) -> Event:
    event = Event.of(full_name(group, namespace()), name, data, durable=durable, key=key)
    if pages:
        event.exclude(pages)
    return event.limited(settings().MAX_EVENT_BYTES)


async def _amake(
    events: Iterable[tuple[Group, str, object]],
    *,
    durable: bool,
    key: str | None,
    exclude: object,
) -> list[Event]:
    # The namespace may be that of the thread of the caller's database calls, as a schema is.
    name = namespace() if settings().NAMESPACE is None else await in_callers_thread(namespace)
    with within_namespace(name):
        # The request's user may have to be read from the database.
        pages = () if exclude is None else await in_callers_thread(pages_of, exclude)
        return [_make(*event, durable=durable, key=key, pages=pages) for event in events]


def _checked(immediate: bool, durable: bool) -> bool:
    if immediate and durable:
        raise ValueError(
            "immediate=True requires durable=False: the log can't be written outside the open "
            "transaction (a second SQLite connection would wait for the first for ever)."
        )
    return immediate


async def _apublish(
    events: list[Event], *, durable: bool, using: str | None, immediate: bool
) -> list[Event]:
    queue = queue_of_loop(durable=durable, using=using, immediate=immediate)
    if queue is not None:
        return await queue.publish(events)
    return await in_callers_thread(_publish, events, using=using, immediate=immediate)


def _publish(events: list[Event], *, using: str | None, immediate: bool) -> list[Event]:
    """Publish now or with the transaction; either all events are durable or none."""
    if not events:
        return []
    log = event_log()
    alias = using or DEFAULT_DB_ALIAS
    if immediate:
        return _publish_now(events)
    # Each publish adds a callback: the rollback of a savepoint removes the callbacks within it.
    durable = events[0].durable
    if in_atomic(alias) and not (durable and alias == log.alias):
        when_committed(events, alias, _publish_committed)
        return events
    if durable and log.alias is not None and in_atomic(log.alias):
        log.stage(events)
        number_when_committed({event.group for event in events}, log.alias, _number)
        return events
    return _publish_now(events)


def _publish_now(events: list[Event]) -> list[Event]:
    if not events[0].durable:
        outbox.send(events)
        return events
    log = event_log()
    if not group_commit.shares(log, events):
        numbered = _append(events)
        outbox.send(numbered)
        return numbered[-len(events) :]
    return group_commit.publish(log, events)


def _append(events: list[Event]) -> list[Event]:
    """Append to the log; if that fails although events are stored, their readers get these."""
    try:
        with group_commit.timed(events):
            return event_log().append(events)
    except PartlyStored as error:
        outbox.send(error.stored)
        raise


def _number(groups: Collection[str]) -> None:
    """Number and send staged events; never raises."""
    try:
        began = perf_counter()
        numbered = event_log().number(groups)
        if CONTROL_GROUP not in groups:
            COUNTS.publish_seconds.observe(perf_counter() - began)
    except Exception:
        logger.warning(
            "Committed events of %s could not be numbered; they wait for the next sweep.",
            ", ".join(sorted(groups)),
            exc_info=True,
            extra=log_fields(groups=groups),
        )
    else:
        outbox.send(numbered)


def _publish_committed(batches: list[Batch]) -> None:
    """Publish what a transaction has committed, by one append; never raises."""
    durable = [event for batch in batches for event in batch if event.durable]
    try:
        alias = event_log().alias
        if durable and alias is not None and in_atomic(alias):
            # The log's database is in a transaction too: the events then wait for its commit.
            _publish(durable, using=alias, immediate=False)
            numbered = []
        else:
            numbered = _append(durable) if durable else []
    except PartlyStored as error:
        numbered = []
        COUNTS.lost += len(durable) - len(error.stored)
        _incomplete_log(
            "After a commit, %d of %d event(s) were stored, but not as they should be: %s",
            len(error.stored),
            len(durable),
            error,
            extra=log_fields(groups={e.group for e in durable}, events=len(durable), error=error),
        )
    except Exception as error:
        numbered = []
        COUNTS.lost += len(durable)
        _lost_log(
            "Lost %d event(s) of a committed transaction: the event log did not take them.",
            len(durable),
            exc_info=True,
            extra=log_fields(groups={e.group for e in durable}, events=len(durable), error=error),
        )
    _send_in_order(batches, numbered, len(durable))


def _send_in_order(batches: list[Batch], numbered: list[Event], durable: int) -> None:
    """Send `numbered` and the events that are not durable in the order of their publishing.

    `numbered` is empty, or ends with the `durable` events of the batches.
    """
    staged = max(0, len(numbered) - durable)
    outbox.send(numbered[:staged])
    place = staged
    for batch in batches:
        if not batch[0].durable:
            outbox.send(batch)
        else:
            outbox.send(numbered[place : place + len(batch)])
            place += len(batch)
