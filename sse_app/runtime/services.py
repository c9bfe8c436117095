"""Tasks that belong to no visitor: `spawn()`, `SharedTasks`, and `Services`, the tasks of a hub.

These tasks run in an empty context, so they do not keep the language, tenant or trace of the first
visitor. A service that ends is logged and started again, so no stream waits for a task that has
ended; `health/` names the services that are down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, Final, ParamSpec, TypeVar

from .callables import contained
from .rare_logs import RareLog
from .telemetry import COUNTS, count, log_fields

#: Seconds before a service is started again: the first pause, which doubles, and the longest.
PAUSE_SECONDS: Final = (0.5, 30.0)
#: Seconds after which a service that did not end when it was cancelled is cancelled again.
CANCEL_SECONDS: Final = 0.5

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")
Work = Callable[[], Coroutine[Any, Any, object]]

logger = logging.getLogger("sse_app")
_failed_log = RareLog(logger)


def spawn(
    work: Callable[_Parameters, Coroutine[Any, Any, _Result]],
    *args: _Parameters.args,
    **kwargs: _Parameters.kwargs,
) -> asyncio.Task[_Result]:
    """Run `work` in a task with an empty context, within `contained`; return the task."""
    return spawn_in(Context(), work, *args, **kwargs)


def spawn_in(
    context: Context,
    work: Callable[_Parameters, Coroutine[Any, Any, _Result]],
    *args: _Parameters.args,
    **kwargs: _Parameters.kwargs,
) -> asyncio.Task[_Result]:
    """See `spawn()`; in `context`."""

    async def run() -> _Result:
        with contained():
            return await work(*args, **kwargs)

    return asyncio.get_running_loop().create_task(run(), context=context)


async def every(interval: Callable[[], float], work: Callable[[], Awaitable[None]]) -> None:
    """Repeat `work` until cancelled, with pauses of `interval()` seconds. Errors are logged."""
    while True:
        await asyncio.sleep(interval())
        await logged(work)


async def logged(work: Callable[[], Awaitable[None]]) -> None:
    """Do `work`; an exception is logged and not raised."""
    try:
        with contained():
            await work()
    except Exception:
        name = getattr(work, "__qualname__", type(work).__name__)
        _failed_log(
            "The hub's %s failed; it will be repeated.",
            name,
            key=name,
            exc_info=True,
            extra=log_fields(),
        )


class SharedTasks:
    """Shares one task among all callers with the same key while it runs.

    Used on one loop, or with the loop in the key. A cancelled caller does not cancel the task,
    because other callers may wait for it.
    """

    def __init__(self) -> None:
        self._running: dict[object, asyncio.Task[Any]] = {}

    async def result(
        self, key: object, work: Callable[[], Coroutine[Any, Any, _Result]]
    ) -> _Result:
        """Return the result of the running task for `key`; start `work` if there is no task."""
        task: asyncio.Task[_Result] | None = self._running.get(key)
        if task is None:
            task = self._running[key] = spawn(work)
            task.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(task)

    async def result_here(self, work: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
        """See `result()`; one task for each event loop."""
        return await self.result(asyncio.get_running_loop(), work)

    def forget(self) -> None:
        """Forget all tasks, as in a forked child."""
        self._running.clear()

    async def close(self) -> None:
        """Cancel all tasks and wait for their ends."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _done(self, key: object, task: asyncio.Task[Any]) -> None:
        # Removed now, not when the next task starts: a task keeps its event loop in memory.
        if self._running.get(key) is task:
            del self._running[key]
        if not task.cancelled():
            task.exception()  # Retrieved, as all waiting callers may have been cancelled.


class Service:
    """One task that is started again whenever it ends, until `close()`. Used on its own loop."""

    def __init__(self, name: str, work: Work) -> None:
        self.name = name
        #: The name of the exception for which the service is down; empty while it runs. A service
        #: that was started again must run for one more pause before it counts as running.
        self.error = ""
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._pause = PAUSE_SECONDS[0]
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._task = self._begin()

    def close(self) -> asyncio.Task[object]:
        """Cancel the task and return it; it is not started again."""
        self._closed = True
        self._drop_timer()
        self._task.cancel()
        return self._task

    def _begin(self) -> asyncio.Task[object]:
        task = spawn(self._work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[object]) -> None:
        if self._closed:
            if not task.cancelled():
                task.exception()  # Retrieved, so that asyncio does not log it.
            return
        self._drop_timer()
        pause, self._pause = self._pause, min(self._pause * 2, PAUSE_SECONDS[1])
        if task.cancelled():
            # Cancelled by its own code, or because the loop ends: then the timer never fires.
            self.error, cause = "CancelledError", None
        else:
            cause = task.exception() or RuntimeError("the service returned")
            self.error = type(cause).__name__
            self._log(cause)
        self._after(pause, self._again, cause)

    def _again(self, cause: BaseException | None) -> None:
        if cause is None:
            self._log(asyncio.CancelledError())
        count(COUNTS.restarts, self.name)
        self._task = self._begin()
        self._after(self._pause, self._recovered)

    def _recovered(self) -> None:
        self._timer = None
        self.error = ""
        self._pause = PAUSE_SECONDS[0]

    def _after(self, seconds: float, then: Callable[..., None], *args: object) -> None:
        self._timer = self._loop.call_later(seconds, then, *args, context=Context())

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _log(self, cause: BaseException) -> None:
        logger.error(
            "The hub's service %s ended; it is started again: %r",
            self.name,
            cause,
            exc_info=cause,
            extra=log_fields(reason=self.name, error=cause),
        )


class Services:
    """The services of one hub, by name."""

    def __init__(self) -> None:
        self._services: dict[str, Service] = {}

    def run(self, name: str, work: Work) -> None:
        """Run `work` until `close()`, unless a service has this name already."""
        if name not in self._services:
            self._services[name] = Service(name, work)

    @property
    def down(self) -> dict[str, str]:
        """The services that are down, each with the name of its last exception. From any thread."""
        return {one.name: one.error for one in list(self._services.values()) if one.error}

    async def close(self) -> None:
        """Stop all services and wait for their ends."""
        ending = {service.close() for service in self._services.values()}
        while ending:
            _, ending = await asyncio.wait(ending, timeout=CANCEL_SECONDS)
            for task in ending:
                # A policy may have caught the first cancellation and returned an answer.
                task.cancel()
