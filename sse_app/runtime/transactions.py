"""The transaction that this thread has open on a database: whether there is one, and savepoints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from django.db import DatabaseError, connections, transaction
from django.db.backends.signals import connection_created
from django.db.transaction import TransactionManagementError
from django.dispatch import receiver

from .forks import at_fork
from .threads import PUBLISHES

_View = TypeVar("_View", bound=Callable[..., Any])


def in_transaction(alias: str) -> bool:
    """Return whether this thread is in `atomic()` on the database `alias`, or has autocommit off.

    Opens no connection.
    """
    return _has_transaction(connections[alias])


def in_any_transaction(aliases: Collection[str]) -> bool:
    """Return whether any thread of the process has a transaction open on one of the databases.

    For code on an event loop, which can't know the thread in which its caller may have begun one.
    That caller waits for the code, so its transaction is open at the time of the call.
    """
    found = (one() for one in _opened.valuerefs())
    opened = (connection for connection in found if connection is not None)
    if any(one.alias in aliases and _has_transaction(one) for one in opened):
        return True
    # A thread that has no connection yet begins as the settings say. An alias that the settings do
    # not have is refused in the caller's thread.
    known = connections.settings
    return not all(alias in known and known[alias]["AUTOCOMMIT"] for alias in aliases)


def _has_transaction(connection: Any) -> bool:
    if connection.in_atomic_block:
        return True
    # `get_autocommit()` would connect, also where the event log is in no database.
    is_open = connection.connection is not None
    return not (connection.autocommit if is_open else connection.settings_dict["AUTOCOMMIT"])


#: The connections that threads of this process have opened, by `id()`.
_opened: WeakValueDictionary[int, Any] = WeakValueDictionary()


@receiver(connection_created)
def _note(connection: Any, **kwargs: object) -> None:
    if not PUBLISHES.has_this_thread():  # Its transactions are the app's own.
        _opened[id(connection)] = connection


def _note_own() -> None:
    """Note the connections of this thread: in a forked child there are no others."""
    _opened.clear()
    for connection in connections.all(initialized_only=True):
        _note(connection)


at_fork(_note_own)
_note_own()


class _AllDatabases(set[str]):
    """Has each alias. Django's own decorator names one database, and others may be atomic too."""

    def __contains__(self, alias: object) -> bool:
        return True


def non_atomic(view: _View) -> _View:
    """Decorate a view that `ATOMIC_REQUESTS` leaves alone, on each database.

    Django refuses an async view otherwise.
    """
    view._non_atomic_requests = _AllDatabases()  # type: ignore[attr-defined]  # read by Django
    return view


def in_atomic(alias: str) -> bool:
    """Return whether this thread is in `atomic()` on the database `alias`.

    Raises `TransactionManagementError` if autocommit is off there, as `transaction.on_commit()`
    does: a commit of such a transaction calls nothing. Opens no connection.
    """
    if connections[alias].in_atomic_block:
        return True
    if in_transaction(alias):
        raise TransactionManagementError(
            f"Nothing can be published while autocommit is off for the database {alias!r}, as "
            "after set_autocommit(False): the event could leave before the commit. Publish within "
            "transaction.atomic(), or while autocommit is on."
        )
    return False


def sends_together(connection: Any) -> bool:
    """Return whether PostgreSQL gets several statements together, in one round trip.

    Not statements with parameters that are bound on the server's side.
    """
    options = connection.settings_dict.get("OPTIONS", {})
    return connection.vendor == "postgresql" and not options.get("server_side_binding")


#: A statement between the creation of a savepoint and its release, in one round trip.
_GUARDED: Final = "SAVEPOINT sse_app; {}; RELEASE SAVEPOINT sse_app"


def guarded(alias: str, execute: Callable[[str], None], *, statements: int) -> None:
    """Call `execute` in the transaction of the caller, which can go on after a `DatabaseError`.

    `execute` formats its SQL with the template that it gets. On PostgreSQL an error aborts a
    transaction back to the last savepoint, so the app makes one: by the template around a single
    statement, which costs no round trip, else by `atomic()`.
    """
    connection: Any = connections[alias]
    if statements == 1 and connection.vendor != "postgresql":
        execute("{}")  # SQLite undoes the failed statement alone.
    elif statements == 1 and sends_together(connection):
        try:
            execute(_GUARDED)
        except DatabaseError:
            with suppress(DatabaseError), connection.cursor() as cursor:
                cursor.execute("ROLLBACK TO SAVEPOINT sse_app; RELEASE SAVEPOINT sse_app")
            raise
    else:
        with transaction.atomic(using=alias):
            execute("{}")


@contextmanager
def impatient(alias: str, seconds: float, *, statements: int = 2) -> Iterator[None]:
    """`atomic()` on the database `alias`, whose statements wait up to `seconds` for a row's lock.

    For transactions of the app. Within a transaction of the caller, it is only a savepoint. SQLite
    has one lock for all, and a timeout in the settings: there a single statement runs alone.
    """
    connection: Any = connections[alias]
    if statements == 1 and connection.vendor == "sqlite":
        yield
        return
    outermost = not connection.in_atomic_block
    with transaction.atomic(using=alias):
        if outermost and connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = {max(1, int(seconds * 1000))}")
        yield
