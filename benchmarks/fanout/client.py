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

    `batch`: how many wait for their first event at a time. `every`: one in how many streams reads
    the latency. `groups`: how many groups of its own each has; 0 is the group of all.
    """

    def __init__(
        self,
        server: Server,
        readers: int,
        mute: int = 0,
        batch: int = 250,
        every: int = 10,
        groups: int = 0,
    ) -> None:
        #: How many streams were asked for.
        self.asked = readers
        path, separator = server.case.own_path if groups else (server.case.path, "")
        self._command = [sys.executable, "-m", "benchmarks.fanout.load", str(server.port), path]
        options = {"readers": readers, "mute": mute, "batch": batch, "every": every}
        options |= {"groups": groups}
        for name, value in options.items():
            self._command += [f"--{name}", str(value)]
        # Not an argument of its own: it may be empty, or begin like an option.
        self._command.append(f"--separator={separator}")
        if server.cookies:
            self._command += ["--cookies", str(server.cookies)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            self.connected: dict[str, Any] = self.answer()
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

    def require(self) -> None:
        """Raise `RuntimeError` if a stream did not open: figures would be of fewer."""
        if self.opened < self.asked:
            raise RuntimeError(f"only {self.opened} of {self.asked} streams opened")

    def figures(self) -> dict[str, Any]:
        """Return the figures since the last call."""
        return self.ask("")

    def ask(self, command: str) -> dict[str, Any]:
        """Return the answer to one of the commands of `load`."""
        self.begin(command)
        return self.answer()

    def begin(self, command: str) -> None:
        """Begin a command; see `answer()`."""
        assert self._process.stdin
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def open(self, count: int, batch: int) -> dict[str, Any]:
        """Open more streams."""
        self.asked += count
        self.connected = self.ask(f"open {count} {batch}")
        return self.connected

    def answer(self) -> dict[str, Any]:
        """Return the answer to the command that was begun."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load client ended")
        found: dict[str, Any] = json.loads(line)
        return found
