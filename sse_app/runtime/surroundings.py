"""`Surroundings`: what surrounds each call of a project's code for one stream.

That is the context manager of `STREAM_CONTEXT`, for example one that sets the schema of a tenant,
the language or a trace. It may depend on the thread, as database connections do, or on the context.
So it is entered in the thread and the context in which the project's code runs, for each call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final

from asgiref.sync import async_to_sync

Manager = Callable[[], AbstractContextManager[object]]

_manager: Final = ContextVar[Manager | None]("sse_app.surroundings", default=None)


def surround(manager: Manager | None) -> None:
    """From now on, in this context, `surrounded()` functions run within `manager()`."""
    _manager.set(manager)


@contextmanager
def surrounding(manager: Manager | None) -> Iterator[None]:
    """See `surround()`; only within the block."""
    token = _manager.set(manager)
    try:
        yield
    finally:
        _manager.reset(token)


def are_set() -> bool:
    """Whether this context has a manager."""
    return _manager.get() is not None


def surrounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` for a call in a thread, within the manager of the caller's context.

    Without a manager this is `function` itself. With one, an async function becomes a sync one,
    which waits for its end in the thread: so Django's async database calls in it run in the thread,
    and a manager that sets the schema of the thread's connection holds for them.
    """
    manager = _manager.get()
    if manager is None:
        return function

    def call(*args: Any, **kwargs: Any) -> Any:
        with manager():
            result = function(*args, **kwargs)
            return async_to_sync(resolved)(result) if inspect.isawaitable(result) else result

    return call


async def resolved(result: Any) -> Any:
    """Return `result`; if it is awaitable, its result, and so on."""
    while inspect.isawaitable(result):
        result = await result
    return result


def for_shared_work() -> Context:
    """Return the context for work that streams of one tenant share.

    Without a manager it is empty, so that it does not keep the trace of the first visitor.
    """
    return copy_context() if are_set() else Context()
