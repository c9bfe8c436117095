"""What is killed and started again besides Daphne: Valkey and the publishers; and their notes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..support.servers import ROOT
from ..support.valkeys import Valkey
from .stores import DURABLE

LOGS: Final = ("sqlite", "postgresql", "redis")
PATIENCE: Final = 30.0


def make_valkey(folder: Path) -> Valkey:
    """Return a Valkey, not started, that loses nothing it has acknowledged when it is killed."""
    return Valkey(folder / "valkey", *DURABLE)


class PublisherProcess:
    """A publisher that begins under a new name whenever it is started again."""

    def __init__(self, number: int, folder: Path, environment: dict[str, str]) -> None:
        self.number = number
        self.notes = folder / f"publisher-{number}.notes"
        self.log = folder / f"publisher-{number}.log"
        self.starts = 0
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seed: int, groups: Sequence[str]) -> None:
        """Start it; the groups are those that it publishes to."""
        name = f"p{self.number}-{self.starts}"
        self.starts += 1
        module = [sys.executable, "-m", "tests.chaos.publisher"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*module, name, str(self.notes), str(seed), *groups],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    @property
    def is_dead(self) -> bool:
        """Whether it was started and runs no more, whoever killed it."""
        return self._process is not None and self._process.poll() is not None

    def stop(self, how: signal.Signals) -> None:
        """Stop it by a signal, and by SIGKILL if that is not enough."""
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()


@dataclass
class Notes:
    """What the publishers noted: by group, what must be in the log and what must not."""

    acknowledged: dict[str, set[str]] = field(default_factory=dict)
    rolled_back: set[str] = field(default_factory=set)
    #: Acknowledged too, by the commit, but left to the sweep.
    left: set[str] = field(default_factory=set)
    #: When the publishing of each event began, and when it was acknowledged, on the clock that all
    #: processes share.
    begun: dict[str, float] = field(default_factory=dict)
    at: dict[str, float] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many events were acknowledged."""
        return len(self.at)


def read_notes(folder: Path) -> Notes:
    """Read what all publishers have noted so far."""
    notes = Notes()
    for path in folder.glob("*.notes"):
        for line in path.read_text().splitlines():
            answer, begun, at, group, data = line.split(" ")
            if answer == "no":
                notes.rolled_back.add(data)
            else:
                notes.acknowledged.setdefault(group, set()).add(data)
                notes.begun[sys.intern(data)] = float(begun)
                notes.at[sys.intern(data)] = float(at)
                if answer == "left":
                    notes.left.add(data)
    return notes


def environment_of(process_environment: Mapping[str, str], **changes: str) -> dict[str, str]:
    """Return a process's environment with some variables of its own."""
    return {**os.environ, **process_environment, **changes}
