"""`when_committed()`: the publishes of one transaction leave together, right after its commit.

For events whose log is not in the transaction's database. A hundred publishes are then one append:
one round trip, and if the log hangs, one wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..protocol.events import Event

Batch = Sequence[Event]
#: By connection, the list of callbacks to which the last publish was added, and its first entry.
_lists: WeakKeyDictionary[BaseDatabaseWrapper, tuple[list[Any], object]] = WeakKeyDictionary()


def when_committed(events: Batch, using: str, leave: Callable[[list[Batch]], None]) -> None:
    """Call `leave` with `events` after the commit of the transaction that is open on `using`.

    Publishes that follow in the same transaction are added to the same call, in their order.
    `leave` must not raise.
    """
    connection = connections[using]
    callback = _Callback(events, using, leave)
    # Each publish has its own callback: the rollback of a savepoint removes the callbacks within.
    transaction.on_commit(callback, using=using, robust=True)
    _lists[connection] = connection.run_on_commit, connection.run_on_commit[0]


class _Callback:
    """The callback of one publish. The first one that is called also does the work of the rest."""

    def __init__(self, events: Batch, using: str, leave: Callable[[list[Batch]], None]) -> None:
        self._events: Batch | None = events
        self._using = using
        self._leave = leave

    def __call__(self) -> None:
        batches = [found for callback in (self, *self._rest()) if (found := callback._take())]
        if batches:
            self._leave(batches)

    def _take(self) -> Batch | None:
        events, self._events = self._events, None
        return events

    def _rest(self) -> list[_Callback]:
        """Return the callbacks that follow this one.

        Django takes each callback out of its list before the call, so the list has the ones that
        follow. The rollback of a savepoint makes a new list, which this module does not know until
        the next publish. The first entry of the old list then stays: each publish leaves alone.
        """
        callbacks, first = _lists.get(connections[self._using], ([], None))
        if callbacks and callbacks[0] is first:
            return []
        return [entry[1] for entry in callbacks if isinstance(entry[1], _Callback)]
