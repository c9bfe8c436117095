"""Whether this thread has a transaction open on a database."""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.db.transaction import TransactionManagementError


def in_transaction(alias: str) -> bool:
    """Return whether this thread is in `atomic()` on the database `alias`, or has autocommit off.

    Opens no connection.
    """
    connection: Any = connections[alias]
    if connection.in_atomic_block:
        return True
    # `get_autocommit()` would connect, also where the event log is in no database.
    is_open = connection.connection is not None
    return not (connection.autocommit if is_open else connection.settings_dict["AUTOCOMMIT"])


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
