"""`contained`: whatever a project's function raises becomes an `Exception`.

`sys.exit()` would end the server, and a `CancelledError` without a cancellation would look like the
end of the task that called the function.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

#: A thread can't pass these subclasses of `Exception` to an event loop. After a `StopIteration` the
#: task that awaits the thread would wait without end (Python 3.11); the other one would become an
#: `asyncio.CancelledError`, which looks like the end of that task.
_NOT_FOR_LOOPS: Final = (StopIteration, concurrent.futures.CancelledError)


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


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None  # No event loop runs in this thread.
