"""`progress()`: how far a long task is, as events of a group, for the bar on a page.

A module `progress` would take the place of the function in the package.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from math import inf
from typing import Any, Final, Literal, Self

from ..conf import settings
from ..protocol.events import Event
from ..protocol.groups import validate_group
from ..runtime.telemetry import log_fields
from .publish import apublish, publish

#: The event's name, and the key of those that are not durable.
NAME: Final = "progress"
#: Between two events that are not durable.
PAUSE_SECONDS: Final = 0.1

logger = logging.getLogger("sse_app")


def progress(group: str, total: float | None = None, *, using: str | None = None) -> Progress:
    """Return a context manager, sync and async, for the code of a long task.

    Its value reports to `group` with `advance()` and `at()`; `total` is how much there is to do,
    None if nobody knows. Each report is an event `progress` with the data `{"done", "total",
    "text", "state"}`; the state is "running", and in the end "done", or "failed" if the block
    raised. The exception goes on, and its text is not published.

    The first event and the last are durable: a page that comes later sees the last of them with
    `?from=-1`. They belong to a transaction around them as those of `publish(…, using=using)` do,
    so open transactions inside the block and not around it. What is between is not durable, leaves
    at once, inside a transaction too, and at most ten times a second; the latest is never held back
    for longer.

    Entering raises what `publish()` raises. A last event that can't be published is logged: the
    task has ended by then. Raises `ValueError` for an invalid group or total.
    """
    return Progress(validate_group(group), None if total is None else _amount(total), using)


class Progress:
    """What `progress()` returns. Made by it alone; reports may come from any thread."""

    def __init__(self, group: str, total: float | None, using: str | None) -> None:
        self.group = group
        self.total = total
        self.done: float = 0
        self.text = ""
        self.state: Literal["new", "running", "done", "failed"] = "new"
        self._using = using
        # Held while an event leaves, so that an older one never follows a newer one.
        self._lock = threading.RLock()
        self._next_at = 0.0
        self._timer: threading.Timer | asyncio.TimerHandle | None = None

    def advance(self, n: float = 1) -> None:
        """Report that `n` more are done. Never blocks for the log. See `at()`."""
        with self._lock:
            self.at(self.done + n)

    def at(self, done: float, text: str | None = None) -> None:
        """Report that `done` of the total are done; `text` stays until there is another.

        Raises `ValueError` if `done` is negative or not finite, or the text is longer than an
        event may be, and `RuntimeError` outside the block.
        """
        with self._lock:
            if self.state != "running":
                raise RuntimeError("Report within the block: with progress(…) as report.")
            done = _amount(done)
            if text is not None:
                # Now, as the active language may be another when it leaves; and a text that is
                # too long is the caller's mistake, not one of the timer's.
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
        publish(self.group, NAME, self._report(), using=self._using)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._end(kind)
        try:
            publish(self.group, NAME, self._report(), using=self._using)
        except Exception as failure:
            self._log_failure(failure)

    async def __aenter__(self) -> Self:
        self._begin()
        await apublish(self.group, NAME, self._report(), using=self._using)
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        self._end(kind)
        try:
            await apublish(self.group, NAME, self._report(), using=self._using)
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
            timer.cancel()  # What it would have sent is part of the last event.
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
        publish(self.group, NAME, self._report(), durable=False, key=NAME, immediate=True)

    def _report(self) -> dict[str, Any]:
        return {"done": self.done, "total": self.total, "text": self.text, "state": self.state}

    def _checked(self, text: str) -> str:
        Event.of(self.group, NAME, self._report() | {"text": text}).limited(
            settings().MAX_EVENT_BYTES - 100  # For figures that grow.
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
    """Return `number` if it can be an amount of work."""
    if isinstance(number, int | float) and 0 <= number < inf:
        return number
    raise ValueError(f"Invalid amount {number!r}: a finite number, not below 0.")
