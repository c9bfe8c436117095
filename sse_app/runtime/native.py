"""Real threads, also in a process where gevent or eventlet has replaced threads by greenlets.

An event loop must not run in a greenlet: while the loop waits, the other greenlets of the thread
run, and Django refuses their database calls (`SynchronousOnlyOperation`). A real thread may share
no lock of `threading` with greenlets, since eventlet can't continue a greenlet of another thread.
"""

from __future__ import annotations

import _thread
import asyncio
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

POLL_SECONDS: Final = 0.005
START_SECONDS: Final = 0.0005


def has_greenlets() -> bool:
    """Whether `threading.Thread` starts greenlets in this process."""
    return _native("start_new_thread") is not _thread.start_new_thread


def start_loop(name: str) -> asyncio.AbstractEventLoop:
    """Run a new event loop in a real thread, which does not delay the end of the process.

    Raises the error of a loop or thread that can't be made, mostly an `OSError`.
    """
    started: list[asyncio.AbstractEventLoop | Exception] = []

    def run() -> None:
        # Made here, because the selector and sockets of gevent belong to the thread.
        try:
            loop = asyncio.new_event_loop()
        except Exception as error:
            started.append(error)
            return
        if has_greenlets():
            loop.set_default_executor(_ThreadOfTheLoop())
        loop.call_soon(started.append, loop)
        loop.run_forever()

    if has_greenlets():
        _native("start_new_thread")(run, ())
    else:
        threading.Thread(target=run, name=name, daemon=True).start()
    while not started:
        time.sleep(START_SECONDS)
    if isinstance(started[0], Exception):
        raise started[0]
    return started[0]


def make_condition() -> threading.Condition | PolledCondition:
    """Return a condition that a thread of `start_loop()` may share with all other threads."""
    return PolledCondition() if has_greenlets() else threading.Condition()


class PolledCondition:
    """See `threading.Condition`; a greenlet waits by short sleeps, during which others run.

    The block that holds the condition must not sleep, log or do I/O: another greenlet that then
    entered the condition would stop their thread without end.
    """

    def __init__(self) -> None:
        self._lock = _native("allocate_lock")()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *raised: object) -> None:
        self._lock.release()

    def wait_for(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Return the result of `predicate`: True, or False after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not predicate() and time.monotonic() < deadline:
            self._lock.release()
            try:
                time.sleep(POLL_SECONDS)
            finally:
                self._lock.acquire()
        return predicate()

    def notify_all(self) -> None:
        """Do nothing: the waiting greenlets notice by themselves."""


class _ThreadOfTheLoop(ThreadPoolExecutor):
    """Calls functions directly, such as the look-up of a host name.

    Its threads would be greenlets, and at its end the process would wait for them without end.
    """

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        outcome: Future[Any] = Future()
        try:
            outcome.set_result(function(*args, **kwargs))
        except Exception as error:
            outcome.set_exception(error)
        return outcome


def _native(name: str) -> Any:
    """Return the original of a function of `_thread`."""
    if (monkey := sys.modules.get("gevent.monkey")) is not None:
        return monkey.get_original("_thread", name)
    if (patcher := sys.modules.get("eventlet.patcher")) is not None:
        return getattr(patcher.original("_thread"), name)
    return getattr(_thread, name)
