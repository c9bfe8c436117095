"""What surrounds the calls of a project's code for a stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from sse_app import conf
from sse_app.runtime import surroundings, threads
from sse_app.runtime.callables import call
from sse_app.runtime.surroundings import surrounded

_tenant = threading.local()


@pytest.fixture(autouse=True)
def serving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_serving", True)


def of(name: str) -> surroundings.Manager:
    @contextmanager
    def manager() -> Iterator[None]:
        before, _tenant.name = getattr(_tenant, "name", "none"), name
        try:
            yield
        finally:
            _tenant.name = before

    return manager


def seen(*args: Any) -> tuple[str, bool]:
    return getattr(_tenant, "name", "none"), threading.current_thread().name == threads.NAME


async def seen_async(*args: Any) -> tuple[str, bool]:
    # As Django's async database calls do.
    return await sync_to_async(seen)()


def seen_awaitable(*args: Any) -> Any:
    return seen_async()


async def asked(function: Callable[..., Any]) -> Any:
    return await call(function, threads=threads.Threads(1), key=None, seconds=10)


async def test_each_kind_of_function_runs_within_the_manager_in_its_own_thread() -> None:
    for function in (seen, seen_async, seen_awaitable):
        with surroundings.surrounding(of("red")):
            assert await asked(function) == ("red", True)
            with surroundings.surrounding(of("blue")):
                assert await asked(function) == ("blue", True)
        assert (await asked(function))[0] == "none"
    assert await asked(seen_async) == ("none", False), "without a manager there is no own thread"


async def test_a_manager_that_fails_calls_nothing() -> None:
    called = []

    def failing() -> Any:
        raise PermissionError("no tenant")

    with surroundings.surrounding(failing), pytest.raises(PermissionError):
        await asked(lambda: called.append(1))
    assert called == []


def test_without_a_manager_a_function_is_left_as_it_is() -> None:
    assert surrounded(seen) is seen


def test_the_namespace_of_a_stream_comes_before_that_of_the_caller(settings: Any) -> None:
    settings.SSE_APP = {"NAMESPACE": f"{__name__}.red"}
    assert conf.namespace() == "red"
    with conf.within_namespace("blue"):
        assert conf.namespace() == "blue"
        with conf.within_namespace(""):
            assert conf.namespace() == ""
    assert conf.namespace() == "red"


@pytest.mark.parametrize("name", [None, 5, "a b", "a.b", "x" * 31, "rød"])
def test_what_is_no_namespace_is_named(
    settings: Any, monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    settings.SSE_APP = {"NAMESPACE": f"{__name__}.red"}
    monkeypatch.setitem(globals(), "red", lambda: name)
    with pytest.raises(conf.ImproperlyConfigured, match="NAMESPACE") as caught:
        conf.namespace()
    assert repr(name) in str(caught.value)


def red() -> str:
    return "red"
