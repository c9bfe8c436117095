"""Threads for functions that may hang: bounded, and waited for by nobody."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any

import pytest
from django.db import connections

from sse_app.runtime import threads as own_threads
from sse_app.runtime.threads import NAME, Threads, ThreadsBusy

from ..support.patience import PATIENCE
from ..support.servers import eventually

NEVER = 600


@pytest.fixture(autouse=True)
def _no_idle_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads of a test are not counted by the next one."""
    monkeypatch.setattr(own_threads, "IDLE_SECONDS", 0.0)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What functions wait for; open in the end, so that no thread is left."""
    event, before = threading.Event(), set(threading.enumerate())
    yield event
    event.set()
    eventually(lambda: not [t for t in {*threading.enumerate()} - before if t.name == NAME])


def running() -> int:
    return len([thread for thread in threading.enumerate() if thread.name == NAME])


async def test_there_are_no_more_threads_than_said_and_all_calls_get_one(
    gate: threading.Event,
) -> None:
    threads = Threads(2)
    calls = [
        asyncio.create_task(threads.call(str(n), NEVER, lambda n=n: gate.wait() and n))
        for n in range(5)
    ]
    await asyncio.to_thread(eventually, lambda: running() == 2)
    gate.set()
    assert await asyncio.gather(*calls) == [0, 1, 2, 3, 4]


async def test_a_call_that_waits_in_vain_is_told_so_and_never_made(gate: threading.Event) -> None:
    threads, made = Threads(1), list[str]()
    first = asyncio.create_task(threads.call("a", NEVER, gate.wait))
    await asyncio.to_thread(eventually, lambda: running() == 1)
    # As on a machine that is so quick that the first call has taken no time yet.
    next(iter(threads._running)).began = math.inf
    with pytest.raises(ThreadsBusy, match="None of 1 threads was free for 0 s"):
        await threads.call("b", 0, made.append, "b")
    cancelled = asyncio.create_task(threads.call("c", NEVER, made.append, "c"))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    gate.set()
    await first
    await threads.call("d", NEVER, made.append, "d")
    assert made == ["d"]


async def test_what_hangs_is_waited_for_by_nobody_who_comes_later(gate: threading.Event) -> None:
    threads = Threads(2)
    waiting = [asyncio.create_task(threads.call(key, NEVER, gate.wait)) for key in "ab"]
    await asyncio.to_thread(eventually, lambda: running() == 2)
    await asyncio.sleep(0.01)
    with pytest.raises(ThreadsBusy, match="An earlier call has taken more than 0 s"):
        await threads.call("a", 0, gate.wait)
    with pytest.raises(ThreadsBusy, match="All 2 threads have taken more than 0 s"):
        await threads.call("c", 0, gate.wait)
    gate.set()
    await asyncio.gather(*waiting)
    assert await threads.call("a", NEVER, lambda: "again") == "again"


async def test_what_it_raises_is_raised_and_costs_no_thread() -> None:
    threads = Threads(1)
    for _ in range(3):
        with pytest.raises(KeyError, match="on purpose"):
            await threads.call("a", NEVER, fail)
    with pytest.raises(Exception, match="SystemExit"):
        await threads.call("a", NEVER, sys.exit)
    assert await threads.call("a", NEVER, lambda: "still") == "still"


def fail() -> None:
    raise KeyError("on purpose")


async def test_without_a_thread_of_the_system_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = Threads(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(ThreadsBusy, match="can't start new thread"):
            await threads.call("a", NEVER, fail)
    assert await threads.call("a", NEVER, lambda: "again") == "again"


@pytest.mark.django_db(transaction=True)
async def test_connections_that_it_opened_are_closed(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    # Else Django closes them after each use.
    monkeypatch.setitem(connections["default"].settings_dict, "CONN_MAX_AGE", None)

    def ask() -> bool:
        connection = connections["default"]
        connection.ensure_connection()
        opened.append(connection)
        return connection.connection is not None

    assert await Threads(1).call("a", NEVER, ask)
    await asyncio.to_thread(eventually, lambda: opened[0].connection is None)


@pytest.mark.django_db(transaction=True)
async def test_a_thread_is_used_again_and_keeps_its_connections_until_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "CONN_MAX_AGE", None)
    monkeypatch.setattr(own_threads, "IDLE_SECONDS", PATIENCE)

    def ask() -> Any:
        connections["default"].ensure_connection()
        return threading.current_thread(), connections["default"].connection

    threads = Threads(2)
    assert await threads.call("a", NEVER, ask) == await threads.call("b", NEVER, ask)
    threads._idle.pop().put(None)  # type: ignore[arg-type]  # It ends the thread.


@pytest.mark.django_db(transaction=True)
async def test_without_a_maximum_age_a_connection_is_closed_after_each_call() -> None:
    opened: list[Any] = []

    def ask() -> None:
        connections["default"].ensure_connection()
        opened.append(connections["default"])

    await Threads(1).call("a", NEVER, ask)
    assert opened[0].connection is None


async def test_a_call_at_the_moment_when_its_thread_would_end_gets_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    idle, given = threading.Event(), threading.Event()

    class Queue(SimpleQueue[Any]):
        """The call is given after the wait has ended."""

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if timeout is None:
                return super().get()
            idle.set()
            given.wait(PATIENCE)
            raise Empty

    monkeypatch.setattr(own_threads, "SimpleQueue", Queue)
    threads = Threads(1)
    assert await threads.call("a", NEVER, lambda: 1) == 1
    await asyncio.to_thread(idle.wait, PATIENCE)
    second = asyncio.create_task(threads.call("b", NEVER, lambda: 2))
    await asyncio.sleep(0)
    given.set()
    async with asyncio.timeout(PATIENCE):
        assert await second == 2


def test_a_loop_that_has_closed_meanwhile_costs_no_thread(gate: threading.Event) -> None:
    threads = Threads(1)

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await threads.call("a", NEVER, gate.wait)

    asyncio.run(leave())
    gate.set()
    eventually(lambda: not running())
    assert asyncio.run(threads.call("a", NEVER, lambda: "again")) == "again"


PROGRAM = """
import asyncio, threading
import django
from django.conf import settings
settings.configure()
django.setup()
from sse_app.runtime.threads import Threads

async def main():
    hanging = threading.Event()
    def hang():
        hanging.set()
        threading.Event().wait()
    task = asyncio.create_task(Threads(1).call("a", 600, hang))
    while not hanging.is_set():
        await asyncio.sleep(0)
    print("hangs", flush=True)

asyncio.run(main())
"""


def test_a_program_ends_while_a_function_hangs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=PATIENCE * 3
    )
    assert (done.returncode, done.stdout) == (0, "hangs\n"), done.stderr
