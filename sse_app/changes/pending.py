"""Events of one call that changes many rows, published together; and `suppress_changes()`."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar

from django.db import connections, models, transaction

from ..publishing.publish import publish_in_transaction

Triple = tuple[str, str, object]
Item = TypeVar("Item")

#: The most rows that one statement of this wing reads or writes.
ROWS: Final = 500
#: The most events of one call that wait in memory for being published together.
MAX_PENDING: Final = 10_000

_suppressed: ContextVar[bool] = ContextVar("sse_app_changes_suppressed", default=False)
_pending: ContextVar[Pending | None] = ContextVar("sse_app_changes_pending", default=None)


@dataclass
class Pending:
    """The events of one call that changes rows of one database, and the rows it will delete.

    `savepoints`: those of the transaction in which the events are published, None before it began.
    `alone`: nobody else has begun that transaction. `deletes`: the call deletes rows, and Django
    begins and ends the transaction.
    """

    using: str
    savepoints: list[str] | None = None
    alone: bool = False
    deletes: bool = False
    events: list[Triple] = field(default_factory=list)
    deleting: dict[Hashable, list[models.Model]] = field(default_factory=dict)
    _expected: int = 0

    def add(self, events: Iterable[Triple]) -> None:
        """Add events; beyond `MAX_PENDING` earlier ones are published, to bound memory."""
        events = iter(events)
        while batch := list(islice(events, MAX_PENDING)):
            if len(self.events) + len(batch) > MAX_PENDING:
                self.flush()
            self.events += batch

    def expect(self, owner: Hashable, instance: models.Model) -> None:
        """Note a row that is about to be deleted."""
        self.deleting.setdefault(owner, []).append(instance)
        self._expected += 1

    def was_deleted(self) -> None:
        """Note that an expected row was deleted; publish after the last one."""
        self._expected -= 1
        if self.deletes and not self._expected:
            self.flush(last=True)
            self.savepoints = None

    def flush(self, *, last: bool = False) -> None:
        """Publish the events; `last`: the transaction commits right after this."""
        events, self.events = self.events, []
        if events:
            publish_in_transaction(events, using=self.using, last=last and self.alone)


@contextmanager
def published_together(using: str) -> Iterator[None]:
    """Publish the changes of the block together at its end; if it raises, publish nothing.

    Rows and events are one transaction on the database `using`.
    """
    alone = not connections[using].in_atomic_block
    with transaction.atomic(using=using):
        with _collected(Pending(using, _savepoints(using), alone)) as pending:
            yield
        pending.flush(last=True)


@contextmanager
def deleted_together(using: str) -> Iterator[None]:
    """Publish the rows that the block deletes together, in the transaction of Django's own.

    Django announces all rows before it deletes the first one. So the events are published when the
    last row is deleted, and the block begins no transaction: `delete()` of a project may begin one
    with `atomic(durable=True)`.
    """
    alone = not connections[using].in_atomic_block
    with _collected(Pending(using, alone=alone, deletes=True)):
        yield


@contextmanager
def _collected(pending: Pending) -> Iterator[Pending]:
    token = _pending.set(pending)
    try:
        yield pending
    finally:
        _pending.reset(token)


def pending_on(using: str, *, deletes: bool = False) -> Pending | None:
    """Return the pending events for the database `using` in this thread or task, or None.

    None within a newer savepoint: an event of it must be rolled back with the savepoint. `deletes`:
    Django deletes rows now, within the transaction that it has begun.
    """
    pending = _pending.get()
    if pending is None or pending.using != using:
        return None
    now = _savepoints(using)
    if pending.savepoints is None and deletes:
        pending.savepoints = now
    return pending if pending.savepoints == now else None


def _savepoints(using: str) -> list[str]:
    # Django lists None for an `atomic()` block without a savepoint.
    return [one for one in connections[using].savepoint_ids if one]


def publish_together(events: Iterable[Triple], using: str) -> None:
    """Publish events together with the pending ones on `using`; without those, now."""
    pending = pending_on(using)
    if pending is not None:
        pending.add(events)
    else:
        Pending(using, events=list(events)).flush()


@contextmanager
def suppress_changes() -> Iterator[None]:
    """Publish no model changes of this thread or task within the `with` block."""
    token = _suppressed.set(True)
    try:
        yield
    finally:
        _suppressed.reset(token)


def suppressed() -> bool:
    """Return whether this thread or task is within `suppress_changes()`."""
    return _suppressed.get()


def batches(items: Collection[Item]) -> Iterator[list[Item]]:
    """Yield the items in lists of at most `ROWS`."""
    rest = iter(items)
    while batch := list(islice(rest, ROWS)):
        yield batch
