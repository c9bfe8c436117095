"""`Server`: the process of one case on core 0, and the time and memory that it uses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from ..servers import ROOT, Servers
from .cases import Case
from .load import keep_to

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
BACKLOG: Final = 4096
START_SECONDS: Final = 30.0
BUSY: Final = 0.3


@dataclass(frozen=True)
class Surroundings:
    """The folders, URLs and files that all servers share."""

    found: Servers
    cookies: Path
    errors: Path
    #: Where the app and the benchmarks are imported from.
    root: Path = ROOT

    def environment(self, case: Case) -> dict[str, str]:
        """Return the environment of the server of `case`."""
        return {
            **self.found.environment(case.database, redis=case.layer != "memory", log=case.log),
            "DJANGO_SETTINGS_MODULE": "benchmarks.fanout.settings",
            "BENCH_LAYER": case.layer,
        }


class Server:
    """Runs from its creation until `stop()`. `stuck`: it was still busy when a wait had ended."""

    def __init__(self, case: Case, around: Surroundings) -> None:
        self.case = case
        self.around = around
        self.cookies = around.cookies if case.signed_in else None
        self.stuck = False
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._start()

    def _start(self) -> None:
        with self.around.errors.open("wb") as errors:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.around.root,
                env=self.around.environment(self.case),
                stderr=errors,
                preexec_fn=lambda: keep_to(0),
            )
        try:
            self._until_it_answers()
        except BaseException:
            self.stop()
            raise

    def _until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.pace(1, 1, 200)
            except OSError:  # URLError too
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def pace(self, rate: float, seconds: float, size: int, groups: int = 0) -> int:
        """Make the server publish; return the number of events.

        `groups`: each event is for one of so many own groups; 0 is the group of all.
        """
        query = f"rate={rate}&seconds={seconds}&size={size}&groups={groups}"
        return self._publish(f"pace/?{query}", seconds + 60)

    def fill(self, groups: int, times: int, size: int) -> int:
        """Make the server publish so many events to each group; return the number of events."""
        return self._publish(f"fill/?groups={groups}&times={times}&size={size}", 120)

    def _publish(self, path: str, seconds: float) -> int:
        with urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=seconds) as answer:
            return int(json.load(answer)["published"])

    def _command(self) -> list[str]:
        return command(self.case, self.port)

    def settle(self, seconds: float = 4.0) -> None:
        """Wait until the server is idle, or for `seconds`: then it is `stuck`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            before, began = self.cpu, time.monotonic()
            time.sleep(0.15)
            if self.cpu - before < BUSY * (time.monotonic() - began):
                return
        self.stuck = True

    @property
    def cpu(self) -> float:
        """Seconds of processor time so far."""
        return processor_seconds(self._process.pid)

    @property
    def waited(self) -> float:
        """Seconds so far in which the process was ready, but other processes used its core."""
        threads = Path(f"/proc/{self._process.pid}/task").iterdir()
        return sum(int((one / "schedstat").read_text().split()[1]) for one in threads) / 1e9

    @property
    def memory(self) -> int:
        """The process's bytes of memory now."""
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * PAGE

    def restart(self) -> None:
        """End the process and start another one, with the same port and stores."""
        self.stop()
        self._start()

    def stop(self) -> None:
        """End the process."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def processor_seconds(pid: int) -> float:
    """Return the processor time so far of all threads of a process."""
    # What clock_getcpuclockid(3) returns, in nanoseconds.
    return time.clock_gettime((~pid << 3) | 2)


def command(case: Case, port: int) -> list[str]:
    """Return how each server is started by its own documentation: one process, no access log."""
    application = f"benchmarks.fanout.apps.{case.application}:{case.application}"
    if case.server == "daphne":
        endpoint = f"tcp:port={port}:interface=127.0.0.1:backlog={BACKLOG}"
        options = ["--endpoint", endpoint, "--verbosity", "0", "--access-log", os.devnull]
    else:
        # With uvloop and httptools, which it takes when they are installed.
        options = ["--host", "127.0.0.1", "--port", str(port), "--backlog", str(BACKLOG)]
        options += ["--log-level", "error", "--no-access-log", "--lifespan", "off"]
    return [sys.executable, "-m", case.server, *options, application]
