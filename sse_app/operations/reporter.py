"""`Reporter`: writes the row of this server process, and calls the duties when they are due.

While nobody reads the reports, a process with streams writes its row once a minute: the control
group tells it when somebody asks for reports. A process without streams reads its row itself to
learn that, every twelve seconds, so that it never counts as dead.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from contextvars import Context
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Q, QuerySet
from django.utils import timezone

from ..conf import written
from ..delivery.hub import running_hubs
from ..runtime.callables import contained, in_thread
from ..runtime.duties import DUTIES
from ..runtime.services import spawn
from ..runtime.telemetry import log_fields
from ..runtime.threads import WRITES
from ..runtime.transactions import impatient
from . import health, reports
from .models import HOST, ServerProcess

#: Seconds between two writes while a dashboard is open, and before the first one.
TICK_SECONDS: Final = 1.0
#: The same while the reports are read, and while nobody reads them with and without streams.
REPORT_SECONDS: Final = 5.0
QUIET_SECONDS: Final = 60.0
ALONE_SECONDS: Final = 12.0
#: Between two writes of the list of streams, which may be long.
STREAMS_SECONDS: Final = 3.0
#: The rows of processes without a write for this long are deleted, every `SWEEP_SECONDS`.
DELETE_SECONDS: Final = 180.0
SWEEP_SECONDS: Final = 600.0
RETIRE_SECONDS: Final = 1.0
LOCK_SECONDS: Final = 1.0

logger = logging.getLogger("sse_app")


class Reporter:
    """Writes the row of this process. Used on its loop only, except `hurry()` and `retire()`.

    Waits by a timer and not in a task: asyncio complains of tasks that are pending when a loop is
    closed, as the loop of a test may be.
    """

    def __init__(self, name: str, server: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.name = name
        self._server = server
        #: Until when a dashboard is open, and until when the reports are read. Set in a thread.
        self._looks: tuple[datetime | None, datetime | None] = (None, None)
        self._layer = self._log = "ok"
        self._lag = 0.0
        self._reported = self._listed = self._swept = float("-inf")
        self._listed_for: datetime | None = None
        self._wakes = DUTIES.wakes
        self._has_row = self._retired = self._is_ending = False
        self._is_failing = False
        self._task: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self._retiring: asyncio.Task[None] | None = None
        self._started_at = timezone.now()
        self._schedule(TICK_SECONDS)
        DUTIES.runner = self.hurry

    def report(self) -> dict[str, Any]:
        """Return the report of this process as of now."""
        return reports.report(self._server, layer=self._layer, log=self._log, loop_lag=self._lag)

    def watch(self, until: datetime) -> None:
        """Report each second until then, with the streams. From any thread."""
        self._looks = until, self._looks[1]
        self._reported = float("-inf")
        self.hurry()

    def hurry(self) -> None:
        """Call the duties that are due; if all were woken, write the row too. From any thread."""
        self._call_on_loop(self._tick_soon)

    def retire(self) -> None:
        """Stop, and delete the row; `is_retiring` is True until that is done. From any thread."""
        self._is_ending = True
        self._call_on_loop(self._begin_retiring)

    def _call_on_loop(self, function: Callable[[], None]) -> None:
        """Call `function` on the loop, unless the loop is closed. From any thread."""
        try:
            self.loop.call_soon_threadsafe(function, context=Context())
        except RuntimeError:
            pass

    @property
    def is_retiring(self) -> bool:
        """Whether the row is still to be deleted."""
        ended = self.loop.is_closed() or (self._retiring is not None and self._retiring.done())
        return self._is_ending and not ended

    def _begin_retiring(self) -> None:
        if not self._retired:
            self._retired = True
            self._timer.cancel()
            self._retiring = spawn(self._retire)

    # --- ticks ---

    def _schedule(self, seconds: float) -> None:
        self._due = self.loop.time() + seconds
        # In an empty context, so that no context variable of the first request stays alive.
        self._timer = self.loop.call_at(self._due, self._start_tick, context=Context())

    def _tick_soon(self) -> None:
        # A tick that is running looks at its end for what is due.
        if self._task is None and not self._retired:
            self._timer.cancel()
            self._schedule(self._pause())

    def _pause(self) -> float:
        """Return the seconds until the row must be written or a duty is due."""
        report = self._reported + self._interval() - self.loop.time()
        return max(0.0, min(report, DUTIES.pause()))

    def _interval(self) -> float:
        """Return the seconds between two writes of the row."""
        watched, read = (until is not None and timezone.now() < until for until in self._looks)
        if self._is_failing or watched or self._listed > 0:
            return TICK_SECONDS  # A list of streams that nobody watches is removed from the row.
        if DUTIES.wakes != self._wakes:
            return 0.0
        if read:
            return REPORT_SECONDS
        return QUIET_SECONDS if running_hubs() else ALONE_SECONDS

    def _start_tick(self) -> None:
        self._lag = max(0.0, self.loop.time() - self._due)
        self._task = spawn(self._tick)
        self._task.add_done_callback(self._tick_done)

    def _tick_done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not self._retired and not task.cancelled():
            self._schedule(self._pause())

    async def _tick(self) -> None:
        try:
            with contained():
                report, streams = await self._due_report()
                await in_thread(self._work, report, streams, threads=WRITES)
        except Exception as error:
            if not self._is_failing:
                logger.warning(
                    "The row of this server process can't be written: %r",
                    error,
                    exc_info=True,
                    extra=log_fields(reason="row", error=error),
                )
            self._is_failing = True
        else:
            self._is_failing = self._is_failing and report is None

    async def _due_report(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Return the report and the list of streams, each if it is due."""
        now, interval = self.loop.time(), self._interval()
        if now < self._reported + interval:
            return None, None
        self._reported, self._wakes = now, DUTIES.wakes
        is_read = interval <= REPORT_SECONDS
        if is_read and (self._probe is None or self._probe.done()):
            self._probe = spawn(self._probe_layer)
        streams, watched_until = None, self._looks[0]
        watched = watched_until is not None and timezone.now() < watched_until
        asked = watched_until != self._listed_for
        if watched and (asked or now >= self._listed + STREAMS_SECONDS):
            self._listed, self._listed_for = now, watched_until
            streams = await reports.rows()
        elif not watched and self._listed > 0:
            self._listed, streams = float("-inf"), {}
        return {**self.report(), "listed_for": mark_of(self._listed_for)}, streams

    async def _probe_layer(self) -> None:
        found = await health.probed()
        self._layer, self._log = found["layer"], found["log"]

    # --- in a thread ---

    def _work(self, report: dict[str, Any] | None, streams: dict[str, Any] | None) -> None:
        if report is not None:
            self._write_row(report, streams)
        self._delete_dead_rows()
        DUTIES.run()

    def _write_row(self, report: dict[str, Any], streams: dict[str, Any] | None) -> None:
        now = timezone.now()
        fields: dict[str, Any] = {"seen_at": now, "report": report}
        if streams is not None:
            fields["streams"] = _to_json(streams)
        own = all_rows().filter(pk=self.name)
        nobody = ~Q(watched_until__gt=now) & ~Q(read_until__gt=now)
        watched_until, read_until = self._looks
        quiet = not any(until is not None and until > now for until in self._looks)
        # Another process may have stopped while it had the rows locked, as in `watch()`.
        with impatient(own.db, LOCK_SECONDS, statements=1):
            # As long as nobody reads the reports, this is the only statement.
            if quiet and own.filter(nobody).update(**fields):
                return
        found = own.values_list("watched_until", "read_until").first()
        with impatient(own.db, LOCK_SECONDS, statements=1):
            if found is None:
                fields |= {"host": HOST, "pid": os.getpid(), "started_at": self._started_at}
                looks = {"watched_until": watched_until, "read_until": read_until}
                all_rows().create(name=self.name, **fields, **looks)
            else:
                own.update(**fields)
                self._looks = found
        self._has_row = True
        if found is not None and (quiet or found[0] != watched_until):
            self._reported = float("-inf")  # The first report for a new reader, with the streams.

    def _delete_dead_rows(self) -> None:
        now = self.loop.time()
        if now >= self._swept + SWEEP_SECONDS:
            self._swept = now
            before = timezone.now() - timedelta(seconds=DELETE_SECONDS)
            dead = all_rows().filter(seen_at__lt=before)
            with impatient(dead.db, LOCK_SECONDS, statements=1):
                dead.delete()

    async def _retire(self) -> None:
        try:
            async with asyncio.timeout(RETIRE_SECONDS):
                if self._probe is not None:
                    self._probe.cancel()
                if self._task is not None:
                    # Not cancelled: its thread could write the row after the deletion.
                    await asyncio.wait([self._task])
                if self._has_row:
                    delete = all_rows().filter(pk=self.name).delete
                    await in_thread(delete, threads=WRITES)
        except Exception as error:
            logger.warning(
                "The row of this server process can't be deleted; another process will do it: %r",
                error,
                extra=log_fields(error=error),
            )


def _to_json(streams: dict[str, Any]) -> str:
    """Return JSON text, made row by row, so that other threads can run in between."""
    lists = (
        f"{json.dumps(kind)}: [{', '.join(map(json.dumps, rows))}]"
        for kind, rows in streams.items()
    )
    return f"{{{', '.join(lists)}}}" if streams else ""


def mark_of(watched_until: datetime | None) -> str:
    """Return the text that a report has as `listed_for` once the streams are listed for a look."""
    return watched_until.isoformat(timespec="microseconds") if watched_until else ""


def all_rows() -> QuerySet[ServerProcess]:
    """Return the rows of all processes, from the database for writes."""
    return written(ServerProcess)
