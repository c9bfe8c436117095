"""Policies that tests name in `SSE_APP`."""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import functools
import threading
from typing import Any


def by_permission(user: Any, group: str, request: Any) -> bool:
    """`team.<name>` is for members of the Django group of that name, `staff` for staff."""
    kind, _, name = group.partition(".")
    if kind == "team":
        return bool(user.is_authenticated and user.groups.filter(name=name).exists())
    if kind == "perm":
        return bool(user.has_perm("project.view_order"))
    return bool(group == "staff" and user.is_staff)


async def by_permission_async(user: Any, group: str, request: Any) -> bool:
    """The same, from async code."""
    from channels.db import database_sync_to_async

    return bool(await database_sync_to_async(by_permission)(user, group, request))


def signed_in(user: Any, group: str, *rest: Any) -> bool:
    """Permit everything to users."""
    return bool(user.is_authenticated)


gate = threading.Event()
asked = threading.Event()


async def held(user: Any, group: str, request: Any) -> bool:
    """Permit it, once the test opens the gate."""
    asked.set()
    return await asyncio.to_thread(gate.wait, 60)


async def decided_and_held(user: Any, group: str, request: Any) -> bool:
    """As `by_permission()`, but the answer waits until the test opens the gate."""
    allowed = await by_permission_async(user, group, request)
    await held(user, group, request)
    return allowed


def raising(user: Any, group: str, request: Any) -> bool:
    """A policy with a bug."""
    raise RuntimeError("on purpose")


async def slow(user: Any, group: str, request: Any) -> bool:
    """A policy that takes its time, `slow.<seconds>`."""
    await asyncio.sleep(float(group.rpartition(".")[2]))
    return True


failing = threading.Event()
refusing = threading.Event()


def at_times(user: Any, group: str, request: Any) -> bool:
    """Permit it, but fail or refuse while the test wants that."""
    if failing.is_set():
        raise RuntimeError("on purpose")
    return not refusing.is_set()


#: The name of what `ending_sync()` and `ending_async()` raise, and how often they were asked.
error = ""
calls = 0


def ending_sync(user: Any, group: str, request: Any) -> bool:
    """Permit it, or raise what is no `Exception`."""
    global calls
    calls += 1
    if error:
        raise getattr(builtins, error, getattr(asyncio, error, None))
    return not refusing.is_set()


async def ending_async(user: Any, group: str, request: Any) -> bool:
    """The same, from async code."""
    return ending_sync(user, group, request)


# --- what a policy can be; each permits the group "yes" ---


def plainly(function: Any) -> Any:
    """Decorate as most packages do, without a thought of `async def`."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


async def async_yes(user: Any, group: str, *rest: Any) -> bool:
    """Permit the group "yes", from async code."""
    await asyncio.sleep(0)
    return group == "yes"


def sync_yes(user: Any, group: str, *rest: Any) -> bool:
    """Permit the group "yes"."""
    return group == "yes"


class AsyncObject:
    """An object that is called like a coroutine function."""

    async def __call__(self, user: Any, group: str, *rest: Any) -> bool:
        return group == "yes"


class Awaitable:
    """Not a coroutine, and awaited all the same."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return self.answer


def returns_an_awaitable(user: Any, group: str, *rest: Any) -> Any:
    """A sync function whose answer must be awaited, on the loop."""
    return Awaitable(group == "yes")


async def returns_a_coroutine(user: Any, group: str, *rest: Any) -> Any:
    """Somebody forgot an `await`."""
    return async_yes(user, group)


wrapped = plainly(async_yes)
partial = functools.partial(plainly(async_yes))
partial_of_async = functools.partial(async_yes)
async_object = AsyncObject()
partial_of_object = functools.partial(AsyncObject())
wrapped_sync = plainly(sync_yes)


# --- what is true and grants nothing ---


def returning(answer: Any) -> Any:
    """A policy that always returns the same."""
    return lambda *args: answer


class NumpyBool:
    """As numpy's bool: equal to True, and true."""

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return other is True

    def __hash__(self) -> int:
        return 1


async def generates(user: Any, group: str, *rest: Any) -> Any:
    """Somebody wrote `yield` for `return`."""
    yield True


one = returning(1)
text = returning("no")
like_numpy = returning(NumpyBool())
nothing = returning(None)
a_function = returning(sync_yes)
a_list = returning([False])
a_future = returning(concurrent.futures.Future())


class Instance:
    """A class in a function's place: what it returns is an instance."""

    def __init__(self, *args: Any) -> None:
        self.args = args


def finds_nothing(user: Any, group: str, *rest: Any) -> bool:
    """Raise what no thread can hand to a loop."""
    return bool(next(iter([])))


#: Opened by the test: until then `hanging_sync()` and `hanging_async()` do not answer.
answering = threading.Event()
#: The groups that they were asked for, how many of these calls run, and the most that ever did.
hanging: list[str] = []
running = most_running = 0


def hanging_sync(user: Any, group: str, *rest: Any) -> bool:
    """Permit everything to users; hang for the groups `hang.*`."""
    if group.startswith("hang"):
        _begin(group)
        answering.wait()
        _end()
    return bool(user.is_authenticated)


async def hanging_async(user: Any, group: str, *rest: Any) -> bool:
    """The same, from async code."""
    if group.startswith("hang"):
        _begin(group)
        try:
            while not answering.is_set():  # noqa: ASYNC110 - a thread sets it
                await asyncio.sleep(0.01)
        finally:
            _end()
    return bool(user.is_authenticated)


def _begin(group: str) -> None:
    global running, most_running
    hanging.append(group)
    running += 1
    most_running = max(most_running, running)


def _end() -> None:
    global running
    running -= 1


def has_row(user: Any, group: str, *rest: Any) -> bool:
    """Permit the groups that have the name of a user."""
    from django.contrib.auth.models import User

    return User.objects.filter(username=group).exists()


def by_last_name(user: Any, group: str, request: Any) -> bool:
    """Permit the group of the user's last name, which no fingerprint shows."""
    return bool(user.is_authenticated and user.last_name == group)
