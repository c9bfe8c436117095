"""Closes every stream with `sse.close` when the server stops.

Servers then cancel their applications, or wait for responses, which never end for streams. So
streams must be closed as soon as the stop is known. Daphne calls Twisted's shutdown triggers, which
are public API; its own shutdown fails silently on one half-sent request. hypercorn sets an event.
For the other servers the signals are handled here first, and then by the server's own handler.

Daphne is also the only server that leaves its event loop with pending tasks. Python 3.11 crashes
when it deletes such a task at its end (a segmentation fault in `_asyncio`), so `end_tasks()` ends
them as `asyncio.run()` does.
"""

from __future__ import annotations

import asyncio
import atexit
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final

from ..delivery.hub import Hub, running_hubs
from ..delivery.transports.daphne import is_sending
from ..delivery.transports.servers import daphne_of, runs_daphne, stopped_of, warn_of_options
from ..runtime.services import spawn
from . import processes

CLOSE_SECONDS: Final = 3.0
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

#: The responses that have not started, for which Daphne's stop waits up to `CLOSE_SECONDS`.
unanswered: Final[set[object]] = set()

_installed: list[object] = []


def install(send: Any) -> None:
    """Install the way that fits the server of the ASGI callable `send`, once per process."""
    if _installed:
        return
    _installed.append(True)
    stopped = stopped_of(send)
    if daphne_of(send) is not None or runs_daphne():
        warn_of_options(send)
        reactor: Any = sys.modules["daphne.server"].reactor
        reactor.addSystemEventTrigger("before", "shutdown", _close_for_twisted)
        atexit.register(end_tasks, asyncio.get_running_loop())
    elif stopped is not None:
        _installed.append(spawn(_close_after, stopped))
    elif threading.current_thread() is threading.main_thread() and _has_handler(signal.SIGTERM):
        for number in filter(_has_handler, SIGNALS):
            _close_on(number)


async def lifespan(
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer a server's `lifespan` scope: its shutdown is complete when all streams have ended.

    After that the process may serve streams again, as a test does for its next application.
    """
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    close_streams()
    await _streams_ended()
    Hub.draining = False
    await send({"type": "lifespan.shutdown.complete"})


def close_streams() -> None:
    """Close the streams of this process, and refuse new ones. From any thread."""
    Hub.draining = True
    if processes.reporter is not None:
        processes.reporter.retire()
    for hub in running_hubs():
        try:
            hub.loop.call_soon_threadsafe(_close_streams_of, hub)
        except RuntimeError:
            pass  # The loop is closed, and its streams have ended.


def _close_streams_of(hub: Hub) -> None:
    for subscription in list(hub.subscriptions):
        subscription.close("shutdown")


def _close_for_twisted() -> Any:
    """Close all streams; Twisted waits for the returned `Deferred`."""
    from twisted.internet.defer import Deferred

    close_streams()
    return Deferred.fromFuture(asyncio.ensure_future(_streams_ended()))


def end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the tasks of a loop that has stopped, and run them to their ends.

    Called by `atexit`, so after Python has waited for the threads of all executors.
    """
    tasks = () if loop.is_running() or loop.is_closed() else asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=CLOSE_SECONDS))


async def _close_after(stopped: Callable[[], Awaitable[Any]]) -> None:
    await stopped()
    close_streams()


def _has_handler(number: int) -> bool:
    """Whether the server handles the signal. Without a handler the process ends immediately."""
    return callable(signal.getsignal(number))


def _close_on(number: int) -> None:
    previous: Any = signal.getsignal(number)

    def handle(number: int, frame: Any) -> None:
        close_streams()
        previous(number, frame)

    signal.signal(number, handle)


async def _streams_ended() -> None:
    deadline = asyncio.get_running_loop().time() + CLOSE_SECONDS
    while (
        unanswered
        or is_sending()
        or _is_retiring()
        or any(hub.subscriptions for hub in running_hubs())
    ):
        if asyncio.get_running_loop().time() > deadline:
            return
        await asyncio.sleep(0.01)


def _is_retiring() -> bool:
    return processes.reporter is not None and processes.reporter.is_retiring
