"""A real `daphne` process, by default with the counting event log; its socket survives restarts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Self
from urllib.request import urlopen

from .servers import ROOT, Servers


class Daphne:
    """A context manager: the process runs within the block, and may be restarted there."""

    def __init__(
        self,
        found: Servers,
        database: str,
        *,
        redis: bool = False,
        log: str = "benchmarks.counting.CountingEventLog",
    ) -> None:
        self._environment = found.environment(database, redis=redis, log=log)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._socket.close()

    def start(self) -> None:
        """Start the process; return when it answers."""
        descriptor = self._socket.fileno()
        command = [sys.executable, "-m", "daphne", "--fd", str(descriptor), "--verbosity", "0"]
        self._process = subprocess.Popen(
            [*command, "--access-log", os.devnull, "project.asgi:application"],
            cwd=ROOT,
            env=self._environment,
            pass_fds=[descriptor],
        )
        # The connection waits in the backlog until the process accepts it.
        self.get("events/health/")

    def get(self, path: str) -> Any:
        """Return the JSON at `path`."""
        deadline = time.monotonic() + 20
        while True:
            try:
                with urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=20) as answer:
                    return json.load(answer)
            except ConnectionError:
                if time.monotonic() > deadline:
                    raise

    def stop(self) -> None:
        """End the process as a deployment does."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
