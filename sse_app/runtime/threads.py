"""`Threads`: calls of functions that may hang, in a limited number of threads.

At its end, a process waits for the threads of all executors, asyncio's included. It does not wait
for these threads: a function that hangs blocks only its thread, not the end of the process.

In a process that serves streams, each kind of work has threads of its own, so that no visitor waits
for a function that only others need. Elsewhere, as in a test, such work runs in the thread of
Django's async database calls, which may be within a transaction; see `callables.in_thread()`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from functools import partial
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any, Final
from weakref import WeakSet

from django.core import mail

from .connections import KeptConnections
from .containment import contained
from .forks import at_fork

NAME: Final = "sse_app-call"
#: How many threads each kind of work has.
CALLS_AT_ONCE: Final = 8
#: A thread without a call ends after so many seconds, and closes its database connections. Longer
#: than the pauses of the app's own work, which would else open a connection each time.
IDLE_SECONDS: Final = 8.0


class ThreadsBusy(Exception):
    """Raised when a call gets no thread."""


class _Call:
    """One call of a function, and the future for its outcome."""

    def __init__(self, key: object, function: Callable[[], Any]) -> None:
        self.key = key
        self.began = 0.0
        self.future: Future[Any] = Future()
        self._function = function

    def run(self) -> Callable[[], None]:
        """Call the function, in a thread; return what sets the outcome."""
        if not self.future.set_running_or_notify_cancel():
            return lambda: None
        try:
            with contained():
                return partial(self.future.set_result, self._function())
        except Exception as error:
            set_outcome = partial(self.future.set_exception, error)
            del self  # Else the traceback would refer to the future, which refers to the traceback.
            return set_outcome


class Threads:
    """At most `most` daemon threads at a time.

    For any number of event loops. A thread has an empty context. It keeps its database connections
    between its calls, see `KeptConnections`, and closes them when it ends.
    """

    def __init__(self, most: int = CALLS_AT_ONCE) -> None:
        self._most = most
        self.clear()
        _all.add(self)

    def clear(self) -> None:
        """Forget all threads, as in a forked child."""
        self._lock = threading.Lock()
        self._running: set[_Call] = set()
        self._waiting: deque[_Call] = deque()
        #: The queues of the threads without a call. The last one is the first to be used again, so
        #: that few threads, and few database connections, are in use.
        self._idle: list[SimpleQueue[_Call]] = []

    def submit(
        self, key: object, seconds: float | None, function: Callable[..., Any], *args: object
    ) -> Future[Any]:
        """Call `function` in a thread; return a future, whose exception is an `Exception`.

        Raises `ThreadsBusy` if an earlier call with this `key`, or the calls in all threads, have
        taken longer than `seconds`; None for no key or no limit. A call that has a thread can't be
        cancelled.
        """
        call = _Call(key, partial(function, *args))
        with self._lock:
            call.began = time.monotonic()
            if seconds is not None:
                self._refuse_hanging(call, seconds)
            if len(self._running) >= self._most:
                self._waiting.append(call)
                call.future.add_done_callback(lambda _: self._withdraw(call))
                return call.future
            self._running.add(call)
            if self._idle:
                self._idle.pop().put(call)
                return call.future
        self._start(call)
        return call.future

    async def call(
        self, key: object, seconds: float, function: Callable[..., Any], *args: object
    ) -> Any:
        """Call `function` in a thread; return its result or raise its errors, see `contained`.

        Raises `ThreadsBusy` as `submit()` does, and if no thread is free within `seconds`. A
        cancelled caller does not wait; the function can't be stopped.
        """
        future = self.submit(key, seconds, function, *args)
        outcome = asyncio.wrap_future(future)
        try:
            await asyncio.wait([outcome], timeout=seconds)
            if future.cancel():
                raise ThreadsBusy(f"None of {self._most} threads was free for {seconds:g} s.")
            return await outcome
        finally:
            outcome.cancel()

    def executor(self, key: object, seconds: float | None) -> Any:
        """Return an executor for asgiref, whose calls have this `key` and limit of `submit()`."""
        return SimpleNamespace(submit=partial(self.submit, key, seconds))

    def _refuse_hanging(self, call: _Call, seconds: float) -> None:
        hanging = [one.key for one in self._running if call.began - one.began > seconds]
        if call.key is not None and call.key in hanging:
            raise ThreadsBusy(f"An earlier call has taken more than {seconds:g} s.")
        if len(hanging) >= self._most:
            raise ThreadsBusy(f"All {self._most} threads have taken more than {seconds:g} s.")

    def _start(self, call: _Call) -> None:
        work = partial(Context().run, self._work, SimpleQueue(), call)
        try:
            threading.Thread(target=work, name=NAME, daemon=True).start()
        except RuntimeError as error:  # The system has no more threads.
            with self._lock:
                self._running.discard(call)
            raise ThreadsBusy(f"No thread can be started: {error}.") from error

    def _withdraw(self, call: _Call) -> None:
        """Remove a call that was cancelled before it had a thread."""
        with self._lock, suppress(ValueError):
            self._waiting.remove(call)

    def has_this_thread(self) -> bool:
        """Return whether the calling thread is one of these."""
        return getattr(_this_thread, "threads", None) is self

    def _work(self, calls: SimpleQueue[_Call], call: _Call | None) -> None:
        _this_thread.threads = self
        kept = KeptConnections(keep=not is_testing())
        while call is not None:
            kept.begin()
            set_outcome = call.run()
            kept.end()
            # First, so that the caller's next call finds this thread idle.
            following = self._ended(call, calls)
            set_outcome()
            del call, set_outcome
            call = following or self._wait(calls)
        kept.close()

    def _ended(self, call: _Call, calls: SimpleQueue[_Call]) -> _Call | None:
        """Return the call that has waited longest; without one, the thread is idle."""
        with self._lock:
            self._running.discard(call)
            if not self._waiting:
                self._idle.append(calls)
                return None
            following = self._waiting.popleft()
            following.began = time.monotonic()
            self._running.add(following)
            return following

    def _wait(self, calls: SimpleQueue[_Call]) -> _Call | None:
        """Return the next call, or None after `IDLE_SECONDS` without one."""
        try:
            return calls.get(timeout=IDLE_SECONDS)
        except Empty:
            pass
        with self._lock:
            if calls in self._idle:
                self._idle.remove(calls)
                return None
        return calls.get()  # Given at the last moment.


#: `threads`: the `Threads` to which this thread belongs.
_this_thread: Final = threading.local()
_all: Final[WeakSet[Threads]] = WeakSet()

#: The app's own reads: the event log, its tables, revocations.
OWN: Final = Threads()
#: The app's own writes. On SQLite, which has one writer, each may wait for a writer of the project,
#: and on PostgreSQL for a locked row: reads do not wait for them.
WRITES: Final = Threads()
#: The events of `apublish()`. Each may wait for a head that another session has locked.
PUBLISHES: Final = Threads()
#: The project's session store and users.
STORE: Final = Threads()

_serving = False


def serve() -> None:
    """Use own threads from now on: a server has sent a request, so this process is no test."""
    global _serving
    _serving = True


def is_serving() -> bool:
    """Whether `serve()` was called."""
    return _serving


def is_testing() -> bool:
    """Whether Django's test environment is set up, as its test runner and pytest-django do."""
    return hasattr(mail, "outbox")


def _forget() -> None:
    for threads in list(_all):
        threads.clear()


at_fork(_forget)
