"""`progress()`: reports how far a long task is as events of a group, for a bar on a page."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from math import inf
from typing import Any, Final, Literal, Self

from ..conf import namespace, settings, within_namespace
from ..protocol.events import Event
from ..protocol.groups import Group, full_name, namespace_of
from ..runtime.telemetry import log_fields
from .publish import apublish, publish

#: The name of the events, and the `key` of the events that are not durable.
NAME: Final = "progress"
#: The shortest time between two events that are not durable.
PAUSE_SECONDS: Final = 0.1

logger = logging.getLogger("sse_app")


def progress(group: Group, total: float | None = None, *, using: str | None = None) -> Progress:
    """Return a context manager, sync and async, for the code of a long task.

    Its value reports to `group` with `advance()` and `at()`; `total` is the whole amount of work,
    None if it is unknown. Each report is an event `progress` with the data `{"done", "total",
    "text", "state"}`. The state is "running", and at the end "done", or "failed" if the block
    raised. The exception is raised again; its text is not published.

    The first and the last event are durable: a page that opens later gets the latest of them with
    `?from=-1`. They leave with a surrounding transaction, as those of `publish(…, using=using)`,
    so open transactions inside the block and not around it. The events between are not durable and
    leave immediately, also inside a transaction, at most ten a second; the latest report waits at
    most a tenth of a second.

    Entering raises the errors of `publish()`. An error of the last event is logged, since the task
    has ended. Raises `ValueError` for an invalid group or total.
    """
    full = full_name(group, namespace())
    return Progress(full, None if total is None else _amount(total), using)


class Progress:
    """The value of `progress()`, which alone makes it. Any thread may report."""

    def __init__(self, group: str, total: float | None, using: str | None) -> None:
        self.group = group
        self.total = total
        self.done: float = 0
        self.text = ""
        self.state: Literal["new", "running", "done", "failed"] = "new"
        self._using = using
        # Held while an event is published, so that an older report never follows a newer one.
        self._lock = threading.RLock()
        self._next_at = 0.0
        self._timer: threading.Timer | asyncio.TimerHandle | None = None

    def advance(self, n: float = 1) -> None:
        """Report that `n` more are done, without I/O of the log. See `at()`."""
        with self._lock:
            self.at(self.done + n)

    def at(self, done: float, text: str | None = None) -> None:
        """Report that `done` of the total are done; `text` stays until the next text.

        Raises `ValueError` for a `done` that is negative or not finite and for a text beyond
        `MAX_EVENT_BYTES`, and `RuntimeError` outside the block.
        """
        with self._lock:
            if self.state != "running":
                raise RuntimeError("Report within the block: with progress(…) as report.")
            done = _amount(done)
            if text is not None:
                # Now and not in the timer: the active language may have changed by then, and the
                # caller must get the error of a text that is too long.
                self.text = self._checked(str(text))
            self.done = done
            if self._timer is None:
                wait = self._next_at - time.monotonic()
                if wait <= 0:
                    self._send()
                else:
                    self._timer = self._start_timer(wait)

    def __enter__(self) -> Self:
        self._begin()
        self._publish()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._end(kind)
        try:
            self._publish()
        except Exception as failure:
            self._log_failure(failure)

    async def __aenter__(self) -> Self:
        self._begin()
        await self._apublish()
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        self._end(kind)
        try:
            await self._apublish()
        except Exception as failure:
            self._log_failure(failure)

    def _begin(self) -> None:
        if self.state != "new":
            raise RuntimeError("A progress is entered once; call progress() again.")
        self.state = "running"
        self._next_at = time.monotonic() + PAUSE_SECONDS

    def _end(self, kind: object) -> None:
        with self._lock:
            self.state = "done" if kind is None else "failed"
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()  # The last event has the report of the timer too.
        if isinstance(timer, threading.Timer):
            timer.join()

    def _start_timer(self, seconds: float) -> threading.Timer | asyncio.TimerHandle:
        try:
            return asyncio.get_running_loop().call_later(seconds, self._on_timer)
        except RuntimeError:
            timer = threading.Timer(seconds, self._on_timer)
            timer.daemon = True
            timer.start()
            return timer

    def _on_timer(self) -> None:
        with self._lock:
            self._timer = None
            if self.state == "running":
                self._send()

    def _send(self) -> None:
        self._next_at = time.monotonic() + PAUSE_SECONDS
        with within_namespace(namespace_of(self.group)):  # This may be the thread of a timer.
            publish(self.group, NAME, self._report(), durable=False, key=NAME, immediate=True)

    def _publish(self) -> None:
        with within_namespace(namespace_of(self.group)):
            publish(self.group, NAME, self._report(), using=self._using)

    async def _apublish(self) -> None:
        with within_namespace(namespace_of(self.group)):
            await apublish(self.group, NAME, self._report(), using=self._using)

    def _report(self) -> dict[str, Any]:
        return {"done": self.done, "total": self.total, "text": self.text, "state": self.state}

    def _checked(self, text: str) -> str:
        Event.of(self.group, NAME, self._report() | {"text": text}).limited(
            settings().MAX_EVENT_BYTES - 100  # Room for numbers that grow.
        )
        return text

    def _log_failure(self, failure: Exception) -> None:
        logger.error(
            "The end of a task (%s) could not be published to %s: %r",
            self.state,
            self.group,
            failure,
            exc_info=failure,
            extra=log_fields(group=self.group, error=failure),
        )


def _amount(number: float) -> float:
    """Return `number` if it is an amount of work, else raise `ValueError`."""
    if isinstance(number, int | float) and 0 <= number < inf:
        return number
    raise ValueError(f"Invalid amount {number!r}: it must be a finite number, not below 0.")
