"""Calls of a project's functions: policies, handlers, states, receivers of signals.

Such a function may be sync, async, or sync with an awaitable result:
`inspect.iscoroutinefunction()` does not detect an `async def` behind a plain decorator. Therefore
the result of each function is awaited if it is awaitable.

Such a function may also raise anything. `sys.exit()` would end the server, and a `CancelledError`
without a cancellation would look like the end of the task that called the function.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

#: A thread can't pass this subclass of `Exception` to an event loop: the task that awaits the
#: thread would wait without end (Python 3.11).
_NOT_FOR_LOOPS: Final = (StopIteration,)


class CallbackFailed(Exception):
    """Raised instead of an exception such as `SystemExit`, which is then its cause."""


class contained:
    """Raises `CallbackFailed` instead of an exception of the block that is no `Exception`.

    Two exceptions pass unchanged, because they come from outside of the block: the cancellation
    of the task, and Ctrl-C in a program without an event loop. The block may await.
    """

    def __enter__(self) -> None:
        self._task = _current_task()
        self._cancelled = self._task.cancelling() if self._task is not None else 0

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or self._passes(error):
            return
        raise CallbackFailed(f"The project's code raised {error!r}.") from error

    def _passes(self, error: BaseException) -> bool:
        if isinstance(error, Exception):
            return not isinstance(error, _NOT_FOR_LOOPS)
        if isinstance(error, asyncio.CancelledError):
            return self._task is not None and self._task.cancelling() > self._cancelled
        if isinstance(error, GeneratorExit):
            # The coroutine is closed from outside, at the end of its loop.
            return self._task is not None and self._task is not _current_task()
        in_main_thread = threading.current_thread() is threading.main_thread()
        return isinstance(error, KeyboardInterrupt) and self._task is None and in_main_thread


def containing(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Return the sync `function`, wrapped in `contained`."""

    @wraps(function)
    def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        with contained():
            return function(*args, **kwargs)

    return call


def containing_async(
    function: Callable[_Parameters, Awaitable[_Result]],
) -> Callable[_Parameters, Coroutine[Any, Any, _Result]]:
    """See `containing()`; for an async function."""

    @wraps(function)
    async def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        with contained():
            return await function(*args, **kwargs)

    return call


async def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function` and return its result, awaited; for code on an event loop.

    A coroutine function runs on the loop. Any other function runs in a thread, where it may use the
    database; an awaitable result is awaited on the loop. Raises the function's errors, see
    `contained`.
    """
    result = function(*args) if _is_async(function) else await in_thread(function, *args)
    with contained():
        return await resolved(result)


def call_from_sync(function: Callable[..., Any], *args: Any) -> Any:
    """See `call()`; for code in a thread. A sync function runs in that thread."""
    with contained():
        result = function(*args)
        return async_to_sync(resolved)(result) if inspect.isawaitable(result) else result


async def resolved(result: Any) -> Any:
    """Return `result`; if it is awaitable, its result, and so on."""
    while inspect.isawaitable(result):
        result = await result
    return result


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - not whether it is callable
    )


async def in_thread(
    function: Callable[..., _Result], *args: Any, thread_sensitive: bool = True, **kwargs: Any
) -> _Result:
    """Call the sync `function` in a thread, where it may use the database; see `contained`."""
    call = database_sync_to_async(containing(function), thread_sensitive=thread_sensitive)
    result: _Result = await call(*args, **kwargs)
    return result


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None  # No event loop runs in this thread.
