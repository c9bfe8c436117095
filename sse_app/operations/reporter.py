"""`Reporter`: writes the row of this server process, and calls the duties once a second."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Sequence
from contextvars import Context
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import QuerySet
from django.utils import timezone

from ..conf import written
from ..runtime.callables import contained, in_thread
from ..runtime.services import spawn
from ..runtime.telemetry import log_fields
from ..runtime.threads import WRITES
from ..runtime.transactions import impatient
from . import health, reports
from .models import HOST, ServerProcess

TICK_SECONDS: Final = 1.0
REPORT_SECONDS: Final = 5.0
#: Between two writes of the list of streams, which may be long.
STREAMS_SECONDS: Final = 3.0
DELETE_SECONDS: Final = 60.0
RETIRE_SECONDS: Final = 1.0
LOCK_SECONDS: Final = 1.0

logger = logging.getLogger("sse_app")

#: Called in the thread that writes the row: again after the returned seconds, else after one.
Duty = Callable[[], float | None]


class Reporter:
    """Writes the row of this process. Used on its loop only, except `tick_now()` and `retire()`.

    Waits by a timer and not in a task: asyncio complains of tasks that are pending when a loop is
    closed, as the loop of a test may be.
    """

    def __init__(self, name: str, server: str, duties: Sequence[Duty]) -> None:
        self.loop = asyncio.get_running_loop()
        self.name = name
        self.watched_until: datetime | None = None
        self._server = server
        self._duties = duties
        self._layer = self._log = "ok"
        self._lag = 0.0
        self._reported = self._listed = self._swept = float("-inf")
        self._has_row = self._tick_again = self._retired = self._is_ending = False
        self._failing: set[str] = set()
        self._pause = TICK_SECONDS
        self._task: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self._retiring: asyncio.Task[None] | None = None
        self._started_at = timezone.now()
        self._schedule(TICK_SECONDS)

    def report(self) -> dict[str, Any]:
        """Return the report of this process as of now."""
        return reports.report(self._server, layer=self._layer, log=self._log, loop_lag=self._lag)

    def tick_now(self) -> None:
        """Run the next tick immediately. From any thread."""
        self._call_on_loop(self._tick_at_once)

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

    def _tick_at_once(self) -> None:
        if self._retired:
            return
        self._tick_again = self._task is not None
        if self._task is None:
            self._timer.cancel()
            self._schedule(0.0)

    def _start_tick(self) -> None:
        self._lag = max(0.0, self.loop.time() - self._due)
        self._pause = TICK_SECONDS
        self._task = spawn(self._tick)
        self._task.add_done_callback(self._tick_done)

    def _tick_done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not self._retired and not task.cancelled():
            self._schedule(0.0 if self._tick_again else self._pause)
            self._tick_again = False

    async def _tick(self) -> None:
        try:
            with contained():
                report, streams = await self._due_report()
                until = await in_thread(self._write_row, report, streams, threads=WRITES)
            # `watch()` may have set a later time here after the row was read.
            self.watched_until = max(filter(None, (self.watched_until, until)), default=None)
        except Exception as error:
            self._failed("row", "The row of this server process can't be written: %r", error)
        else:
            self._failing.discard("row")

    async def _due_report(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Return the report and the list of streams, each if it is due."""
        now = self.loop.time()
        watched = self.watched_until is not None and timezone.now() < self.watched_until
        if not watched and now < self._reported + REPORT_SECONDS:
            return None, None
        self._reported = now
        if self._probe is None or self._probe.done():
            self._probe = spawn(self._probe_layer)
        streams = None
        if watched and now >= self._listed + STREAMS_SECONDS:
            self._listed = now
            streams = await reports.rows()
        elif not watched and self._listed > 0:
            self._listed, streams = float("-inf"), {}
        return self.report(), streams

    async def _probe_layer(self) -> None:
        found = await health.probed()
        self._layer, self._log = found["layer"], found["log"]

    # --- in a thread ---

    def _write_row(
        self, report: dict[str, Any] | None, streams: dict[str, Any] | None
    ) -> datetime | None:
        own = all_rows().filter(pk=self.name)
        watched_until = own.values_list("watched_until", flat=True).first()
        if report is not None:
            fields: dict[str, Any] = {"seen_at": timezone.now(), "report": report}
            if streams is not None:
                fields["streams"] = _to_json(streams)
            # Another process may have stopped while it had the rows locked, as in `watch()`.
            with impatient(own.db, LOCK_SECONDS):
                if not own.update(**fields):
                    fields |= {"host": HOST, "pid": os.getpid(), "started_at": self._started_at}
                    all_rows().create(name=self.name, **fields)
            self._has_row = True
        self._delete_dead_rows()
        pauses = [self._run_duty(duty) for duty in self._duties]
        self._pause = min([TICK_SECONDS, *(seconds for seconds in pauses if seconds is not None)])
        return watched_until

    def _run_duty(self, duty: Duty) -> float | None:
        key = getattr(duty, "__qualname__", repr(duty))
        try:
            with contained():
                seconds = duty()
        except Exception as error:
            self._failed(key, f"{key} failed, and is called again each second: %r", error)
            return None
        self._failing.discard(key)
        return seconds

    def _delete_dead_rows(self) -> None:
        now = self.loop.time()
        if now >= self._swept + DELETE_SECONDS:
            self._swept = now
            before = timezone.now() - timedelta(seconds=DELETE_SECONDS)
            dead = all_rows().filter(seen_at__lt=before)
            with impatient(dead.db, LOCK_SECONDS):
                dead.delete()

    def _failed(self, key: str, text: str, error: Exception) -> None:
        """Log a failure, unless the previous call failed as well."""
        if key not in self._failing:
            self._failing.add(key)
            logger.warning(text, error, exc_info=True, extra=log_fields(reason=key, error=error))

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


def all_rows() -> QuerySet[ServerProcess]:
    """Return the rows of all processes, from the database for writes."""
    return written(ServerProcess)
