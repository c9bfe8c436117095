"""Calling a project's functions: sync, async, or sync and returning what must be awaited.

`inspect.iscoroutinefunction()` does not see an `async def` behind a plain decorator. Therefore
whatever a function returned is awaited wherever it can be awaited.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async


async def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function` and return what it comes to; for code on an event loop.

    A coroutine function runs on the loop. Any other runs in a thread, where it may use the
    database; an awaitable that it returns is awaited on the loop. Raises what the function raises,
    and `RuntimeError` in place of `StopIteration`.
    """
    if _is_async(function):
        return await settled(function(*args))
    return await settled(await database_sync_to_async(_called)(function, args))


def call_from_sync(function: Callable[..., Any], *args: Any) -> Any:
    """See `call()`; for code in a thread, in which a sync function runs."""
    result = function(*args)
    return async_to_sync(settled)(result) if inspect.isawaitable(result) else result


async def settled(result: Any) -> Any:
    """Await `result` until nothing is left to await, and return that."""
    while inspect.isawaitable(result):
        result = await result
    return result


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - not whether it is callable
    )


def _called(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return function(*args)
    except StopIteration as error:
        # A thread can't hand this exception to a loop, where the caller would wait for ever.
        raise RuntimeError("next() found nothing, and has no default") from error
