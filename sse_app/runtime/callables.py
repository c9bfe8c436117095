"""Calls of a project's functions: policies, handlers, states, receivers of signals.

Such a function may be sync, async, or sync with an awaitable result:
`inspect.iscoroutinefunction()` does not detect an `async def` behind a plain decorator. Therefore
the result of each function is awaited if it is awaitable. It may also raise anything, see
`contained`, and take any time.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections

from .connections import close_connections
from .containment import CallbackFailed, contained, containing, containing_async
from .surroundings import resolved, surrounded
from .threads import OWN, Threads, is_serving

__all__ = [
    "CallbackFailed",
    "blocking",
    "call",
    "call_from_sync",
    "contained",
    "containing",
    "containing_async",
    "in_callers_thread",
    "in_thread",
    "in_transaction",
    "resolved",
]

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def blocking(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Let `function`, which has an async twin, name the twin if async code calls `function`."""

    @functools.wraps(function)
    def blocks(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except SynchronousOnlyOperation as error:
            name = function.__name__
            raise SynchronousOnlyOperation(
                f"{name}() waits for I/O, and this is async code: write `await a{name}(…)`."
            ) from error

    return blocks


async def call(
    function: Callable[..., Any],
    *args: Any,
    threads: Threads | None,
    key: object,
    seconds: float,
) -> Any:
    """Call `function` and return its result, awaited; for code on an event loop.

    A coroutine function runs on the loop, but see `surrounded()`. Any other function runs in a
    thread, see `in_thread()`; an awaitable result is awaited on the loop, for at most `seconds`.
    Raises `TimeoutError`, `ThreadsBusy`, and the function's errors, see `contained`.
    """
    with contained():
        function = surrounded(function)
        if _is_async(function):
            result = function(*args)
        else:
            result = await in_thread(function, *args, threads=threads, key=key, seconds=seconds)
        async with asyncio.timeout(seconds):
            return await resolved(result)


def call_from_sync(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function` in this thread and return its result, awaited; see `contained`."""
    with contained():
        result = function(*args)
        return async_to_sync(resolved)(result) if inspect.isawaitable(result) else result


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - not whether it is callable
    )


async def in_thread(
    function: Callable[..., _Result],
    *args: Any,
    threads: Threads | None = OWN,
    key: object = None,
    seconds: float | None = None,
) -> _Result:
    """Call the sync `function` in a thread, where it may use the database; see `contained`.

    The function sees the caller's context variables. It runs in one of `threads`, which are bounded
    and wait for no other work. Without `threads`, or in a process that serves no streams, it runs
    in the thread of Django's async database calls, so that it sees the rows of a test's
    transaction; then it has no key and no limit.

    Raises `TimeoutError` after `seconds`, which does not stop the function. Raises `ThreadsBusy` if
    an earlier call with this `key` or the calls in all `threads` have taken longer than `seconds`.
    """
    work = containing(function)
    if threads is None or not is_serving():
        return await sync_to_async(_with_connections)(work, *args)
    executor = threads.executor(key, seconds)
    async with asyncio.timeout(seconds):
        return await sync_to_async(work, thread_sensitive=False, executor=executor)(*args)


def _with_connections(function: Callable[..., _Result], *args: Any) -> _Result:
    close_connections()
    try:
        return function(*args)
    finally:
        close_connections()


async def in_callers_thread(
    function: Callable[_Parameters, _Result],
    *args: _Parameters.args,
    **kwargs: _Parameters.kwargs,
) -> _Result:
    """Call the sync `function` in the thread of the caller's database calls, see `contained`.

    So it is part of the transaction that sync code around the caller has begun.
    """
    return await sync_to_async(containing(function))(*args, **kwargs)


def in_transaction() -> bool:
    """Whether this thread has begun a transaction, whose rows no other thread can see."""
    return any(one.in_atomic_block for one in connections.all(initialized_only=True))
