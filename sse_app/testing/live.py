"""`LiveDaphne`: a real daphne process for a test, on the test's database and a free port."""

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

#: The environment variable that names the test's databases to the process.
DATABASES: Final = "SSE_APP_TEST_DATABASES"
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0


class LiveDaphne:
    """A process that serves `ASGI_APPLICATION` of `DJANGO_SETTINGS_MODULE`.

    The process shares only the databases with the test: neither settings that a test has changed,
    nor an in-memory channel layer or cache. `environment` is added to the process's environment.
    """

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        #: The file with the process's stdout and stderr.
        self.log = folder / "daphne.log"
        # The process inherits this socket, so the port is surely free.
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
        """Return the server once it answers. Raises `RuntimeError` with the log if it does not."""
        # As a script: `-m` would import this package's models before Django is set up.
        script = Path(__file__).with_name("daphne_process.py")
        # With the folder and the import path of this process, as pytest sets them.
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
        """End the process by SIGTERM, or by SIGKILL if it takes longer than 10 seconds."""
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
            # The request waits in the socket's backlog until the process accepts it.
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
                f"live_daphne is another process, which can't read the in-memory test database "
                f"{alias!r}. Use a file: DATABASES[{alias!r}]['TEST'] = {{'NAME': BASE_DIR / "
                "'test.sqlite3'}."
            )
    return {alias: str(connections[alias].settings_dict["NAME"]) for alias in connections}
