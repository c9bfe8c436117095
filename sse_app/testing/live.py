"""`LiveDaphne`: a real daphne process for a test, on the test's database and a port of its own."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, Self

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections
from django.urls import reverse

from ..eventlog import event_log

#: Under which the process is told the names of the test's databases.
DATABASES: Final = "SSE_APP_TEST_DATABASES"
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0


class LiveDaphne:
    """A process that serves `ASGI_APPLICATION` of `DJANGO_SETTINGS_MODULE`.

    It shares the test's databases and nothing else: neither settings that a test has changed, nor
    an in-memory channel layer or cache. `environment` is added to the process's.
    """

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        #: What the process says: stdout, stderr and the log.
        self.log = folder / "daphne.log"
        # Made here and handed over, so no port is guessed.
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
            DATABASES: json.dumps(_databases()),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Return it once the process answers. Raises `RuntimeError` with its log otherwise."""
        # As a script: its package imports models, which Django must have loaded first.
        script = Path(__file__).with_name("daphne_process.py")
        # As pytest is run: from the same folder, and with what it can import.
        environment = self._environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(script), str(self._socket.fileno())],
                env=environment,
                pass_fds=[self._socket.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"daphne did not start: {self.log.read_text()}")
        return self

    def stop(self) -> None:
        """End the process: by SIGTERM, and by SIGKILL if it takes too long."""
        self._socket.close()
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            # It waits in the socket's backlog until the process accepts it.
            connection.request("OPTIONS", reverse("sse_app:stream"))
            connection.getresponse()
            return True
        except OSError:
            return False
        finally:
            connection.close()


def _databases() -> dict[str, str]:
    """Return the names of the test's databases, by alias."""
    for alias in {DEFAULT_DB_ALIAS, event_log().alias or DEFAULT_DB_ALIAS}:
        connection: Any = connections[alias]  # Only SQLite's has the method.
        if connection.vendor == "sqlite" and connection.is_in_memory_db():
            raise ImproperlyConfigured(
                f"live_daphne is another process, which can't see the in-memory test database "
                f"{alias!r}. Give it a file: DATABASES[{alias!r}]['TEST'] = {{'NAME': BASE_DIR / "
                "'test.sqlite3'}."
            )
    return {alias: str(connections[alias].settings_dict["NAME"]) for alias in connections}
