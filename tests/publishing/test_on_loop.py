"""`apublish()`: without a thread where no transaction is open, and never before a commit."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import DatabaseError, connections, transaction
from django.db.backends.signals import connection_created
from django.test import TestCase, override_settings

from sse_app import Event, apublish, apublish_many
from sse_app.eventlog import RedisEventLog, event_log
from sse_app.protocol.cursors import START
from sse_app.publishing import outbox, publish
from sse_app.publishing.on_loop import LoopQueue
from sse_app.publishing.outbox import HubOutbox, Outbox
from sse_app.runtime import threads
from sse_app.runtime.transactions import in_any_transaction

from .test_group_commit import refused

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])

MEMORY = {"EVENT_LOG": "sse_app.eventlog.MemoryEventLog"}


def database(alias: str) -> dict[str, Any]:
    return {"EVENT_LOG": {"BACKEND": "sse_app.eventlog.DatabaseEventLog", "ALIAS": alias}}


@pytest.fixture(autouse=True)
async def no_connection_stays() -> AsyncIterator[None]:
    """Close what the thread of Django's async database calls has opened."""
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data of the events that were queued for the channel layer."""
    found: list[str] = []
    monkeypatch.setattr(
        Outbox, "put", lambda self, events: found.extend(event.data for event in events)
    )
    return found


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The calls in the thread of Django's async database calls."""
    found: list[object] = []
    hop = publish.in_callers_thread

    async def counted(function: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(function)
        return await hop(function, *args, **kwargs)

    monkeypatch.setattr(publish, "in_callers_thread", counted)
    return found


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The batches that threads of `PUBLISHES` got. The process serves streams."""
    found: list[list[Any]] = []
    submit = threads.PUBLISHES.submit

    def counted(key: object, seconds: float | None, function: Any, *args: Any) -> Any:
        found.append(args[1])
        return submit(key, seconds, function, *args)

    monkeypatch.setattr(threads.PUBLISHES, "submit", counted)
    monkeypatch.setattr(threads, "_serving", True)
    return found


@override_settings(SSE_APP=MEMORY)
async def test_with_a_log_in_memory_no_thread_is_used(
    hops: list[object], queued: list[str]
) -> None:
    assert (await apublish("g", "n", "1")).offset == 1
    assert [event.offset for event in await apublish_many([("g", "n", "2")] * 2)] == [2, 3]
    await apublish("g", "n", "passing", durable=False)
    assert await apublish_many([]) == []
    assert (hops, queued) == ([], ["1", "2", "2", "passing"])


async def test_with_a_log_in_redis_no_thread_is_used_and_the_order_is_kept(
    hops: list[object], queued: list[str], valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": valkey}
    monkeypatch.setattr(outbox, "_hub_outboxes", [])
    with override_settings(SSE_APP={"EVENT_LOG": setting}):
        log = event_log()
        assert isinstance(log, RedisEventLog)
        first = (await apublish("g", "n", "first")).offset or 0
        assert len(hops) == 1  # The loop may soon end, and its connections with it.
        await HubOutbox().start(None)
        calls = [asyncio.ensure_future(apublish("g", "n", str(n))) for n in range(50)]
        events = await asyncio.gather(*calls)
        await log.aclose()
    assert len(hops) == 1
    assert [event.offset for event in events] == [*range(first + 1, first + 51)]
    assert queued[1:] == [str(n) for n in range(50)]


@pytest.mark.parametrize("alias", ["default", "postgresql"])
async def test_calls_on_one_loop_share_a_thread_and_an_append(
    alias: str, hops: list[object], queued: list[str], submitted: list[list[Any]]
) -> None:
    with override_settings(SSE_APP=database(alias)):
        events = await asyncio.gather(*[apublish("g", "n", str(n)) for n in range(50)])
        stored = await event_log().asince("g", START, 100)
    assert [event.offset for event in events] == [*range(1, 51)]
    assert stored == events
    assert queued == [str(n) for n in range(50)]
    assert ([len(batches) for batches in submitted], hops) == ([1, 49], [])


async def test_of_the_calls_on_one_loop_only_the_refused_one_fails(
    queued: list[str], submitted: list[list[Any]]
) -> None:
    with override_settings(SSE_APP=database("postgresql")):
        log: Any = event_log()
        guard = await sync_to_async(refused)(log, "bad")
        await sync_to_async(guard.__enter__)()
        names = ("a", "b", "bad", "c")
        calls = [asyncio.ensure_future(apublish("g", name, name)) for name in names]
        cancelled = asyncio.ensure_future(apublish("g", "n", "cancelled"))
        await asyncio.sleep(0)
        cancelled.cancel()
        a, b, bad, c = await asyncio.gather(*calls, return_exceptions=True)
        await sync_to_async(guard.__exit__)()
    assert isinstance(bad, DatabaseError)
    assert cancelled.cancelled()
    assert [one.offset for one in (a, b, c) if isinstance(one, Event)] == [1, 2, 3]


async def test_calls_that_follow_each_other_share_a_connection(
    queued: list[str], submitted: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a server, which keeps its connections; a test's database must be free to be deleted.
    monkeypatch.setattr(threads, "is_testing", lambda: False)
    while threads.PUBLISHES._idle:  # Threads of other tests, which keep nothing.
        threads.PUBLISHES._idle.pop().put(None)  # type: ignore[arg-type]  # It ends the thread.
    opened: list[int] = []

    def note(**kwargs: Any) -> None:
        opened.append(threading.get_ident())

    connection_created.connect(note)
    try:
        with override_settings(SSE_APP=database("default")):
            for n in range(10):
                await apublish("g", "n", str(n))
    finally:
        connection_created.disconnect(note)
    assert len(submitted) == 10
    assert len(opened) == len(set(opened))


@pytest.mark.parametrize("setting", [MEMORY, database("default"), database("postgresql")])
@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_an_event_waits_for_the_transaction_of_sync_code_around_it(
    setting: dict[str, Any], ends: str, queued: list[str], submitted: list[list[Any]]
) -> None:
    async def work() -> None:
        await apublish("g", "n", "1")
        await asyncio.create_task(apublish_many([("g", "n", "2")]))  # type: ignore[arg-type]

    def run() -> None:
        with override_settings(SSE_APP=setting), transaction.atomic(), atomic_on(setting):
            async_to_sync(work)()
            assert queued == []
            transaction.set_rollback(ends == "rollback")

    run()
    assert queued == ([] if ends == "rollback" else ["1", "2"])


def atomic_on(setting: dict[str, Any]) -> Any:
    log = setting["EVENT_LOG"]
    return transaction.atomic(using=log["ALIAS"] if isinstance(log, dict) else "default")


@override_settings(SSE_APP=MEMORY)
async def test_an_event_waits_for_a_transaction_that_async_code_began_in_a_thread(
    queued: list[str],
) -> None:
    block = transaction.atomic()
    await sync_to_async(block.__enter__)()
    await apublish("g", "n", "1")
    assert queued == []
    await sync_to_async(block.__exit__)(None, None, None)
    assert queued == ["1"]
    await apublish("g", "n", "2")
    assert queued == ["1", "2"]


@override_settings(SSE_APP=MEMORY)
async def test_while_autocommit_is_off_nothing_is_published(queued: list[str]) -> None:
    await sync_to_async(transaction.set_autocommit)(False)
    try:
        with pytest.raises(transaction.TransactionManagementError):
            await apublish("g", "n", "1")
    finally:
        await sync_to_async(transaction.set_autocommit)(True)
    assert queued == []


@override_settings(SSE_APP=MEMORY)
class TestInATestsTransaction(TestCase):
    """As Django's own test runner does."""

    async def test_an_event_waits_for_the_end_of_the_test(self) -> None:
        """The thread of the test has begun the transaction."""
        assert (await apublish("g", "n", "1")).offset is None


@override_settings(SSE_APP=MEMORY)
async def test_receivers_are_called_where_they_may_use_the_database(
    hops: list[object], seen: list[Event]
) -> None:
    await apublish("g", "n", "1")
    assert (len(hops), len(seen)) == (1, 1)


def in_a_thread(work: Callable[[], Any]) -> Iterator[None]:
    """Run `work` in a thread up to the first `yield` of this generator; the rest when it ends."""
    begun, ends = threading.Event(), threading.Event()

    def run() -> None:
        with work():
            begun.set()
            ends.wait()
        connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    yield
    ends.set()
    thread.join()


def test_a_transaction_of_any_thread_is_seen() -> None:
    aliases = {"default"}
    assert not in_any_transaction(aliases)
    for _ in in_a_thread(transaction.atomic):
        assert in_any_transaction(aliases)
        assert not in_any_transaction({"postgresql"})
    assert not in_any_transaction(aliases)


def test_a_transaction_of_the_apps_own_publishing_is_no_callers() -> None:
    """Else the calls that come during an append would not share the next one."""
    for pool, seen in ((threads.PUBLISHES, False), (threads.OWN, True)):
        begun, ends = threading.Event(), threading.Event()

        def work(begun: threading.Event = begun, ends: threading.Event = ends) -> None:
            with transaction.atomic():
                begun.set()
                ends.wait()

        done = pool.submit(None, None, work)
        begun.wait()
        assert in_any_transaction({"default"}) is seen
        ends.set()
        done.result()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_knows_the_transactions_of_its_own_thread_only() -> None:
    for _ in in_a_thread(transaction.atomic):
        child = os.fork()
        if not child:
            others = in_any_transaction({"default"})
            connections["default"].in_atomic_block = True
            os._exit(others * 2 + in_any_transaction({"default"}))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


async def test_a_queue_that_gets_no_thread_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise threads.ThreadsBusy("none")

    monkeypatch.setattr(threads.PUBLISHES, "submit", refuse)
    queue = LoopQueue()
    for _ in range(2):
        with pytest.raises(threads.ThreadsBusy):
            await queue.publish([Event.of("g", "n", "")])
