"""Reads the rows of all server processes, once a second for all dashboards of this process."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from django.utils import timezone

from ...runtime.callables import in_thread
from ...runtime.forks import at_fork
from ...runtime.services import SharedTasks
from .. import processes
from ..models import ServerProcess
from .overview import Meter, Row

#: All dashboards share an overview for this long.
FRESH_SECONDS: Final = 0.9
#: Processes are asked to list their streams for this long, and again after half of it.
WATCH_SECONDS: Final = 10.0
#: How long to wait for lists of streams if no dashboard had asked for them before.
LIST_SECONDS: Final = 4.0
STEP_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Overview:
    """The state of all processes at one moment. `version` changes with the lists of streams."""

    totals: Row
    chart: list[tuple[float, float, float]]
    processes: list[Row]
    groups: list[Row]
    opened: list[Row]
    ended: list[Row]
    version: int


class Poller:
    """Reads the rows of all processes. `poll()` may be called from any thread."""

    def __init__(self) -> None:
        self._meter = Meter()
        self._texts: dict[str, str] = {}
        self._lists: dict[str, dict[str, list[Row]]] = {}
        self._opened: list[Row] = []
        self._ended: list[Row] = []
        self._version = 0
        self._polling = threading.Lock()
        self._latest: tuple[float, Overview] | None = None

    @property
    def fresh(self) -> Overview | None:
        """The latest overview, if it is younger than `FRESH_SECONDS`."""
        latest = self._latest
        return latest[1] if latest and time.monotonic() - latest[0] < FRESH_SECONDS else None

    def poll(self) -> Overview:
        """Return the fresh overview, or read the rows. Raises `django.db.Error`."""
        with self._polling:
            return self.fresh or self._poll()

    def _poll(self) -> Overview:
        began = time.monotonic()
        rows = processes.alive(streams=True)
        soon = timezone.now() + timedelta(seconds=WATCH_SECONDS / 2)
        # The row of a process that started a moment ago does not have `watched_until` yet.
        if any(row.watched_until is None or row.watched_until < soon for row in rows):
            processes.watch(WATCH_SECONDS)
        self._meter.take({row.name: row.report for row in rows if row.report}, time.time())
        self._take_lists(rows)
        overview = Overview(
            totals=self._meter.totals(),
            chart=list(self._meter.chart),
            processes=[self._process(row) for row in rows],
            groups=self._meter.groups(),
            opened=self._opened,
            ended=self._ended,
            version=self._version,
        )
        self._latest = began, overview
        return overview

    def _take_lists(self, rows: list[ServerProcess]) -> None:
        """Parse only the lists that have changed: each may be a megabyte."""
        texts = {row.name: row.streams for row in rows}
        if texts == self._texts:
            return
        for row in rows:
            if row.streams != self._texts.get(row.name):
                self._lists[row.name] = listed(row)
        self._lists = {name: self._lists[name] for name in texts}
        self._texts = texts
        self._opened = [row for lists in self._lists.values() for row in lists["open"]]
        self._ended = [row for lists in self._lists.values() for row in lists["ended"]]
        self._version += 1

    def _process(self, row: ServerProcess) -> Row:
        report = row.report
        return {
            "name": row.name,
            "host": row.host,
            "pid": row.pid,
            "server": report.get("server", ""),
            "started_at": row.started_at.timestamp(),
            "seen": round(max(0.0, (timezone.now() - row.seen_at).total_seconds()), 1),
            "health": report.get("health", {}),
            "open": sum(report.get("open", {}).values()),
            "delivered": self._meter.delivered(row.name),
            "waiting": report.get("waiting", {}),
        }


def listed(row: ServerProcess) -> dict[str, list[Row]]:
    """Return the streams of a process, each with the process's label as `process`."""
    found: dict[str, list[Row]] = row.all_streams()
    for kind in found.values():
        for stream in kind:
            stream["process"] = str(row)
    return found


async def overview() -> Overview:
    """Return an overview that is at most a second old. Callers at the same time share one read.

    The read has its own thread, not the one that streams wait for. Raises `django.db.Error`.
    """
    latest = _poller.fresh
    if latest is not None:
        return latest
    return await _polling.result_here(partial(in_thread, _poller.poll))


def all_streams() -> list[Row]:
    """Return the rows of the streams of all processes, open ones first.

    Waits up to four seconds until each process has written its list after this call.
    Blocks; raises `django.db.Error`.
    """
    mark = processes.watch(WATCH_SECONDS, wake=True)
    until = time.monotonic() + LIST_SECONDS
    rows = processes.alive(streams=True)
    while time.monotonic() < until and not all(_has_listed(row, mark) for row in rows):
        time.sleep(STEP_SECONDS)
        rows = processes.alive(streams=True)
    lists = [listed(row) for row in rows]
    return [stream for kind in ("open", "ended") for part in lists for stream in part[kind]]


def _has_listed(row: ServerProcess, mark: str) -> bool:
    """Return whether the process has listed its streams since `watch()` returned `mark`."""
    return not row.report or row.report.get("listed_for", "") >= mark


def find_stream(id: str) -> Row | None:
    """Return the row of a stream, open or one of the last that ended. See `all_streams()`."""
    return next((row for row in all_streams() if row["id"] == id), None)


_poller = Poller()
_polling = SharedTasks()


def _reset() -> None:
    global _poller
    _poller = Poller()
    _polling.forget()


at_fork(_reset)
