"""The testing kit, as a project would use it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.test import AsyncClient, TestCase, TransactionTestCase

from sse_app import adisconnect, apublish, publish
from sse_app.delivery.hub import running_hubs
from sse_app.testing import capture_events, stream
from sse_app.testing.clocks import SseClock
from sse_app.testing.live import LiveDaphne

from ..support.patience import PATIENCE
from ..support.servers import ROOT, StreamReader


class InATestCase(TestCase):
    def test_the_list_is_complete_after_the_block_though_nothing_commits(self) -> None:
        called = []
        with capture_events() as events:
            publish("orders", "n", "1")
            with transaction.atomic():
                publish("orders", "n", "2")
                transaction.set_rollback(True)
            transaction.on_commit(lambda: called.append(1))
            publish("orders", "n", "3", durable=False, immediate=True)
            assert [event.data for event in events] == ["3"]
        assert [event.data for event in events] == ["3", "1"]
        assert called == [1]
        publish("orders", "n", "after")
        assert len(events) == 2

    def test_without_the_callbacks_only_what_has_left_is_seen(self) -> None:
        called = []
        with capture_events(on_commit=False) as events:
            publish("orders", "n", "1")
            transaction.on_commit(lambda: called.append(1))
            publish("orders", "n", "2", durable=False, immediate=True)
        assert [event.data for event in events] == ["2"]
        assert called == []

    async def test_async_code_is_captured_too(self) -> None:
        async with capture_events() as events:
            await apublish("orders", "n", "1")
            assert events == []
        assert [event.data for event in events] == ["1"]


class InRealTransactions(TransactionTestCase):
    def test_what_leaves_is_seen_at_once(self) -> None:
        with capture_events() as events:
            publish("orders", "n", "1")
            assert [event.offset for event in events] == [1]
            with transaction.atomic():
                publish("orders", "n", "2")
                assert len(events) == 1
            assert len(events) == 2

    def test_a_transaction_of_the_tests_own_runs_its_callbacks_once(self) -> None:
        called: list[int] = []
        with transaction.atomic():
            with capture_events() as events:
                transaction.on_commit(lambda: called.append(1))
                publish("orders", "n", "1")
            assert (events, called) == ([], [])
        assert called == [1]

    async def test_async_code_is_captured_too(self) -> None:
        async with capture_events() as events:
            await apublish("orders", "n", "1")
            assert [event.data for event in events] == ["1"]


@pytest.mark.django_db(transaction=True)
def test_only_the_groups_and_names_that_are_asked_for_are_captured() -> None:
    with (
        capture_events("a", "b", events=["one"]) as both,
        capture_events("a") as group,
        capture_events(events=["two"]) as name,
    ):
        for to, event in (("a", "one"), ("b", "one"), ("c", "one"), ("a", "two")):
            publish(to, event)
    assert [event.group for event in both] == ["a", "b"]
    assert [event.name for event in group] == ["one", "two"]
    assert [event.name for event in name] == ["two"]
    with pytest.raises(ValueError, match="Invalid group"):
        capture_events("a b")
    with pytest.raises(ValueError, match="reserved"):
        capture_events(events=["sse.open"])


@pytest.mark.django_db(transaction=True)
def test_what_the_block_raises_goes_on_and_capturing_ends() -> None:
    with pytest.raises(ZeroDivisionError), capture_events() as events:
        raise ZeroDivisionError
    publish("a", "n")
    assert events == []


# --- stream() ---


@pytest.fixture
async def no_task_is_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:  # What the layer was sent may be on its way.
        await asyncio.wait(left, timeout=1)
    assert not {task for task in left if not task.done()}
    assert running_hubs() == []


streaming = pytest.mark.usefixtures("no_task_is_left")


@streaming
@pytest.mark.django_db(transaction=True)
async def test_what_is_published_from_when_it_is_entered_is_received() -> None:
    async with stream(None, "group=orders") as events:
        assert (events.status, events.opened["groups"]) == (200, ["orders"])
        assert events.headers["content-type"] == "text/event-stream; charset=utf-8"
        await apublish("orders", "order.updated", {"id": 5})
        await apublish("orders", "message", "two\nlines")
        first, second = await events.take(2)
    assert (first.name, first.json()) == ("order.updated", {"id": 5})
    assert (second.name, second.data) == ("message", "two\nlines")
    assert first.id != second.id != ""
    async with stream(None, "group=orders", headers={"Last-Event-ID": first.id}) as events:
        assert events.opened["missed"] == 1
        assert (await events.next()).id == second.id


@streaming
@pytest.mark.django_db(transaction=True)
async def test_a_user_and_a_client_listen_as_who_they_are() -> None:
    ann = await User.objects.acreate_user("ann")
    client = AsyncClient()
    await client.aforce_login(ann)
    for reader in (ann, client):
        async with stream(reader, f"group=user.{ann.pk}") as events:
            await apublish(f"user.{ann.pk}", "n", "hello")
            assert (await events.next()).data == "hello"
    async with stream(None, f"group=user.{ann.pk}") as events:
        assert events.status == 403
        with pytest.raises(AssertionError, match="an event; the answer was 403: "):
            await events.next()


@streaming
@pytest.mark.django_db(transaction=True)
async def test_a_wait_ends_in_time_and_says_what_came_so_far() -> None:
    async with stream(None, "group=orders", timeout=PATIENCE) as events:
        await apublish("orders", "n", "1")
        await events.next()
        events._timeout = 0.2  # From here on nothing comes.
        with pytest.raises(AssertionError, match=r"No sign of an event within 0\.2 s; .* n 1\."):
            await events.next()
        with pytest.raises(AssertionError, match="No sign of the end"):
            await events.until_end()


@streaming
@pytest.mark.django_db(transaction=True)
async def test_a_stream_that_the_server_ends_is_read_to_its_end() -> None:
    ann = await User.objects.acreate_user("ann")
    async with stream(ann, f"group=user.{ann.pk}") as events:
        await apublish(f"user.{ann.pk}", "n", "1")
        await adisconnect(user=ann)
        rest = await events.until_end()
    assert rest[-1].json() == {"reason": "auth"}
    assert events.retry == 3600


@streaming
async def test_a_view_with_a_stream_of_its_own_is_read_too() -> None:
    async with stream(query="/test/resuming/?last_event_id=2") as events:
        assert events.opened is None
        assert [event.name for event in await events.until_end()] == ["count", "sse.close"]
    async with stream(query="/test/resuming/?wait=1") as events:
        assert len(await events.take(3)) == 3


@streaming
async def test_an_exception_of_the_application_is_the_tests(settings: Any) -> None:
    settings.ASGI_APPLICATION = "tests.doors.test_testing.broken"
    with pytest.raises(ZeroDivisionError):
        async with stream(None, "group=orders"):
            pass


async def broken(scope: Any, receive: Any, send: Any) -> None:
    raise ZeroDivisionError


# --- the fixtures ---


@streaming
@pytest.mark.django_db(transaction=True)
async def test_heartbeats_come_and_lives_end_when_the_clock_says_so(
    settings: Any, sse_clock: SseClock
) -> None:
    settings.SSE_APP = {"PUBLIC_GROUPS": ["orders"], "HEARTBEAT": 15, "PUBLIC_STREAM_LIFE": 300}
    async with stream(query="group=orders") as events:
        await sse_clock.advance(14)
        assert events.heartbeats == 0
        for count in (1, 2, 3):
            await sse_clock.advance(15)
            await events.heartbeat()
            assert events.heartbeats == count
        await sse_clock.advance(300)
        assert (await events.until_end())[-1].json() == {"reason": "age"}


async def hear_from(server: LiveDaphne) -> None:
    async with (
        httpx.AsyncClient(timeout=PATIENCE, base_url=server.url) as client,
        client.stream("GET", "/events/?group=orders") as response,
    ):
        reader = StreamReader(response)
        assert (await reader.next()).name == "sse.open"
        await apublish("orders", "n", "from the test")
        assert (await reader.next()).data == "from the test"


async def test_a_live_daphne_serves_what_the_test_publishes(live_daphne: LiveDaphne) -> None:
    await hear_from(live_daphne)
    process = live_daphne.process
    assert process is not None
    assert process.pid != os.getpid()
    live_daphne.stop()
    assert process.poll() is not None


@pytest.mark.slow
def test_a_live_daphne_works_on_the_test_database_in_postgresql(database: str) -> None:
    environment = {**os.environ, "TEST_POSTGRES_NAME": database}
    # Those of this run, which is on SQLite and has the server already.
    del environment["TEST_FOLDER"]
    file = Path(__file__).relative_to(ROOT / "tests")
    test = f"{file}::{test_a_live_daphne_serves_what_the_test_publishes.__name__}"
    options = ["-o", "addopts=", "-p", "no:cacheprovider", "--create-db"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"tests/{test}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


async def test_an_in_memory_database_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        connections["default"].settings_dict, "NAME", "file:memorydb_default?mode=memory"
    )
    with pytest.raises(ImproperlyConfigured, match="in-memory test database 'default'"):
        LiveDaphne(tmp_path)


def test_a_process_that_does_not_start_says_why(tmp_path: Path, transactional_db: None) -> None:
    server = LiveDaphne(tmp_path, {"DJANGO_SETTINGS_MODULE": "no_such_settings"})
    with pytest.raises(RuntimeError, match="no_such_settings"):
        server.start()


def test_production_does_not_import_pytest() -> None:
    code = (
        "import django, sys; django.setup(); "
        "import project.asgi, sse_app.testing, sse_app.views.send\n"
        "assert not {'pytest', '_pytest', 'sse_app.testing.fixtures'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=PATIENCE)
