"""`KeptConnections`: the database connections that a thread of the app keeps between its calls.

With Django's default `CONN_MAX_AGE = 0` each call would open a connection: that costs more than
most calls. So a thread keeps its connections for a minute, as if the project had set `CONN_MAX_AGE`
and `CONN_HEALTH_CHECKS`. The project's own `CONN_MAX_AGE` is not changed, nor is a connection that
belongs to a pool. A test's connections are not kept: its database could not be deleted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, Final

from django.db import connections

from .telemetry import log_fields

#: A connection is replaced after so many seconds, for example to reach another host of a name.
KEPT_SECONDS: Final = 60

logger = logging.getLogger("sse_app")


class KeptConnections:
    """The connections of one thread. All methods are called in that thread, and never raise."""

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._files: dict[str, tuple[int, int] | None] = {}

    def begin(self) -> None:
        """Prepare the connections for a call: Django checks each of them at its first use."""
        _safely(self._begin)

    def end(self) -> None:
        """Close the connections that are unusable, too old, or within a transaction."""
        _safely(_end)

    def close(self) -> None:
        """Close all connections."""
        _safely(connections.close_all)

    def _begin(self) -> None:
        files = {}
        for connection in connections.all():
            options = connection.settings_dict
            if connection.vendor == "sqlite":
                files[connection.alias] = file = file_identity(options["NAME"])
                if file is None:
                    continue
            if self._keep and options["CONN_MAX_AGE"] == 0 and not options["OPTIONS"].get("pool"):
                # A copy: the dict itself is shared by the connections of all threads.
                keep = {"CONN_MAX_AGE": KEPT_SECONDS, "CONN_HEALTH_CHECKS": True}
                connection.settings_dict = {**options, **keep}
        if files != self._files:
            # A restored backup: a connection would read and write the file that it has opened.
            for alias in files:
                connections[alias].close()
        self._files = files


def file_identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return what stays the same for a file under all names; None for no file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None  # The file was deleted, or the database is in memory and its path is empty.
    return found.st_dev, found.st_ino


def close_connections() -> None:
    """Close this thread's connections that Django would close at the end of a request.

    Django's `close_old_connections()` also closes a connection within a transaction, and so breaks
    the transaction of a test or of a view.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


def _end() -> None:
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            _drop(connection)
        else:
            connection.close_if_unusable_or_obsolete()


def _drop(connection: Any) -> None:
    """Close a connection whose transaction was left open; its wrapper can't be used again."""
    del connections[connection.alias]
    connection.close()


def _safely(do: Callable[[], object]) -> None:
    try:
        do()
    except Exception as error:
        logger.warning(
            "A connection to a database can't be closed: %r", error, extra=log_fields(error=error)
        )
