"""`Threads`: calls of functions that may hang, in a limited number of threads.

At its end, a process waits for the threads of all executors, asyncio's included. It does not wait
for these threads: a function that hangs blocks only its thread, not the end of the process.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any, Final

from django.db import close_old_connections, connections

from .callables import contained
from .telemetry import log_fields

NAME: Final = "sse_app-state"

logger = logging.getLogger("sse_app")


class ThreadsBusy(Exception):
    """Raised when a call gets no thread."""


class _Call:
    """One call; its outcome is set on the loop that waits for it, unless that has closed."""

    def __init__(self, key: str, function: Callable[[], Any]) -> None:
        self.key = key
        self.began = 0.0
        self._function = function
        self._loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[Any] = self._loop.create_future()

    def run(self) -> None:
        """Call the function, in a thread."""
        try:
            with contained():
                set_outcome = partial(self.outcome.set_result, self._function())
        except Exception as error:
            set_outcome = partial(self.outcome.set_exception, error)
        try:
            self._loop.call_soon_threadsafe(self._set_outcome, set_outcome)
        except RuntimeError:
            pass  # The loop has closed.

    def _set_outcome(self, set_outcome: Callable[[], None]) -> None:
        if not self.outcome.done():
            set_outcome()


class Threads:
    """At most `most` daemon threads at a time, which end when no call waits.

    For any number of event loops. A thread has an empty context, and closes its database
    connections.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.clear()

    def clear(self) -> None:
        """Forget all threads, as in a forked child."""
        self._lock = threading.Lock()
        self._running: set[_Call] = set()
        self._waiting: deque[_Call] = deque()

    async def call(
        self, key: str, seconds: float, function: Callable[..., Any], *args: object
    ) -> Any:
        """Call `function` in a thread; return its result or raise its errors, see `contained`.

        Raises `ThreadsBusy` if no thread is free within `seconds`, and immediately if an earlier
        call with this `key`, or the calls in all threads, have taken longer than that. A cancelled
        caller does not wait; the function can't be stopped.
        """
        call = _Call(key, partial(function, *args))
        self._submit(call, seconds)
        try:
            await asyncio.wait([call.outcome], timeout=seconds)
            if self._withdraw(call):
                raise ThreadsBusy(f"None of {self._most} threads was free for {seconds:g} s.")
            return await call.outcome
        finally:
            self._withdraw(call)
            call.outcome.cancel()

    def _submit(self, call: _Call, seconds: float) -> None:
        with self._lock:
            call.began = time.monotonic()
            hanging = [one.key for one in self._running if call.began - one.began > seconds]
            if call.key in hanging:
                raise ThreadsBusy(f"An earlier call has taken more than {seconds:g} s.")
            if len(hanging) >= self._most:
                raise ThreadsBusy(f"All {self._most} threads have taken more than {seconds:g} s.")
            if len(self._running) >= self._most:
                self._waiting.append(call)
                return
            self._running.add(call)
        try:
            self._start(call)
        except RuntimeError as error:  # The system has no more threads.
            with self._lock:
                self._running.discard(call)
            raise ThreadsBusy(f"No thread can be started: {error}.") from error

    def _start(self, call: _Call) -> None:
        work = Context().run
        threading.Thread(target=work, args=(self._work, call), name=NAME, daemon=True).start()

    def _withdraw(self, call: _Call) -> bool:
        """Remove a call that has no thread yet; return whether that was so."""
        with self._lock:
            if call not in self._waiting:
                return False
            self._waiting.remove(call)
            return True

    def _work(self, call: _Call) -> None:
        following: _Call | None = call
        while following is not None:
            following.run()
            _close(close_old_connections)
            following = self._next(following)
        _close(connections.close_all)

    def _next(self, ended: _Call) -> _Call | None:
        with self._lock:
            self._running.discard(ended)
            if not self._waiting:
                return None
            call = self._waiting.popleft()
            call.began = time.monotonic()
            self._running.add(call)
            return call


def _close(close: Callable[[], None]) -> None:
    try:
        close()
    except Exception as error:
        logger.warning(
            "A connection to a database can't be closed: %r", error, extra=log_fields(error=error)
        )
