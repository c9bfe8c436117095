"""The publishes of one transaction leave together, right after its commit.

`number_when_committed()` is for events that are staged in the transaction's database: one statement
numbers all of them. `when_committed()` is for events whose log is elsewhere: a hundred publishes
are one append, so one round trip, and if the log hangs, one wait.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..protocol.events import Event

Batch = Sequence[Event]
#: By connection, the list of callbacks to which the last publish was added, and its first entry.
_lists: WeakKeyDictionary[BaseDatabaseWrapper, tuple[list[Any], object]] = WeakKeyDictionary()
#: By connection, the callback of the last publish that staged events.
_last: WeakKeyDictionary[BaseDatabaseWrapper, _Numbering] = WeakKeyDictionary()


def number_when_committed(
    groups: Collection[str], using: str, number: Callable[[Collection[str]], None]
) -> None:
    """Call `number` with `groups` after the commit of the transaction that is open on `using`.

    Publishes that follow in the same transaction add their groups to the same call. If a savepoint
    of theirs is rolled back, their groups have no staged events. `number` must not raise.
    """
    connection = connections[using]
    callback = _Numbering(groups, number)
    # Each publish has its own callback: the rollback of a savepoint removes the callbacks within.
    transaction.on_commit(callback, using=using, robust=True)
    if (last := _last.get(connection)) is not None:
        last.following = callback
    _last[connection] = callback


class _Numbering:
    """The callback of a publish. The first one that is called also numbers for those after it.

    After a rollback, the callbacks of the next transaction follow ones that are never called.
    """

    def __init__(self, groups: Collection[str], number: Callable[[Collection[str]], None]) -> None:
        self._groups: Collection[str] | None = groups
        self._number = number
        self.following: _Numbering | None = None

    def __call__(self) -> None:
        groups: set[str] = set()
        one: _Numbering | None = self
        while one is not None and one._groups is not None:
            groups.update(one._groups)
            one._groups, one = None, one.following
        if groups:
            self._number(groups)


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
        if self._events is None:
            return  # Without a look at the rest, which the first callback has taken.
        batches = [found for callback in (self, *self._rest()) if (found := callback._take())]
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
