"""A thread that notices other connections' commits to a SQLite file, by `PRAGMA data_version`."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ..runtime.connections import file_identity
from ..runtime.telemetry import log_fields

POLL_SECONDS: Final = 0.05
#: The pause after an error, for which commits can't be noticed.
RETRY_SECONDS: Final = 1.0

logger = logging.getLogger("sse_app")


def watch_file(name: str | os.PathLike[str], changed: Callable[[], None]) -> Callable[[], None]:
    """Call `changed` after other connections' commits to the file; return a function that stops it.

    The value of the pragma changes with every commit of another connection to the same file
    (https://www.sqlite.org/pragma.html#pragma_data_version), and reading it touches no row. Values
    can only be compared on one connection, so the thread keeps its connection. A program that
    copies a backup over the file commits nothing, so the file's time and size are compared too.
    """
    stop = threading.Event()
    thread = threading.Thread(
        target=_poll,
        args=(os.fspath(name), changed, stop),
        name="sse_app-sqlite-watch",
        daemon=True,
    )
    thread.start()

    return stop.set


def _poll(name: str, changed: Callable[[], None], stop: threading.Event) -> None:
    told = False
    while not stop.wait(POLL_SECONDS):
        try:
            _poll_file(name, changed, stop)
            changed()  # The name has another file now, or none.
            told = False
        except Exception:
            # Events are only slower: the check of the heads that follows still finds them.
            if not told:
                logger.warning(
                    "Commits to the SQLite file %s can't be noticed immediately.",
                    name,
                    exc_info=True,
                    extra=log_fields(),
                )
            told = True
            changed()
            stop.wait(RETRY_SECONDS)


def _poll_file(name: str, changed: Callable[[], None], stop: threading.Event) -> None:
    """Watch the file until its name is another file's, such as a restored backup's, or no file's.

    A connection keeps the file that it has opened, whatever its name is by now.
    """
    # Without `mode=rw`, the connection would make an empty file in the place of a deleted one.
    uri = name if name.startswith("file:") else f"file:{quote(str(Path(name).absolute()))}?mode=rw"
    with _connect(uri) as connection:
        (_, _, path), *_ = connection.execute("PRAGMA database_list")
    # Read before the file is opened: if it is replaced between the two, that is noticed.
    file, seen = file_identity(path), None
    with _connect(uri) as connection:
        while not stop.wait(POLL_SECONDS) and file_identity(path) == file:
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            now = version, _written(path)
            if now != seen:
                seen = now
                changed()


def _written(path: str) -> tuple[int, int] | None:
    """Return the time of the last write to the file and its size; None for a database in memory."""
    if not path:
        return None
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size


def _connect(uri: str) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(uri, uri=True, isolation_level=None))
