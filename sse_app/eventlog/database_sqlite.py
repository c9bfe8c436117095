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

from ..runtime.telemetry import log_fields

POLL_SECONDS: Final = 0.05

logger = logging.getLogger("sse_app")


def watch_file(name: str | os.PathLike[str], changed: Callable[[], None]) -> Callable[[], None]:
    """Call `changed` after other connections' commits to the file; return a function that stops it.

    The value of the pragma changes with every commit of another connection to the same file
    (https://www.sqlite.org/pragma.html#pragma_data_version), and reading it touches no row. Values
    can only be compared on one connection, so the thread keeps its connection.
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
    uri = name if name.startswith("file:") else f"file:{quote(str(Path(name).absolute()))}"
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            seen = None
            while not stop.wait(POLL_SECONDS):
                (version,) = connection.execute("PRAGMA data_version").fetchone()
                if version != seen:
                    seen = version
                    changed()
    except sqlite3.Error:
        # Events are only slower: the periodic check of the heads still finds them.
        logger.warning(
            "Commits to the SQLite file %s can't be noticed immediately.",
            name,
            exc_info=True,
            extra=log_fields(),
        )
