"""`Client`: starts the load client's process and reads its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Self

from ..servers import ROOT
from .server import Server


class Client:
    """A context manager whose streams are open on entering and gone on leaving.

    `batch`: how many connect at once. `every`: one in how many streams reads the latency.
    """

    def __init__(
        self, server: Server, readers: int, mute: int = 0, batch: int = 250, every: int = 10
    ) -> None:
        self._command = [sys.executable, "-m", "benchmarks.fanout.load"]
        self._command += [str(server.port), server.case.path]
        options = {"readers": readers, "mute": mute, "batch": batch, "every": every}
        for name, value in options.items():
            self._command += [f"--{name}", str(value)]
        if server.cookies:
            self._command += ["--cookies", str(server.cookies)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            self.connected: dict[str, Any] = self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def opened(self) -> int:
        """How many streams have had their first event."""
        return int(self.connected["opened"])

    def figures(self) -> dict[str, Any]:
        """Return the figures since the last call."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load client ended")
        found: dict[str, Any] = json.loads(line)
        return found
