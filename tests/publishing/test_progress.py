"""`progress()`: how far a long task is."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from django.db import transaction

from sse_app import progress
from sse_app.eventlog import event_log
from sse_app.protocol.events import Event
from sse_app.publishing import progress as task_progress

from ..support.patience import PATIENCE
from ..support.servers import Daphne, eventually

GROUP = "import.7"
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def interrupted() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def states(events: list[Event]) -> list[tuple[Any, str, bool]]:
    return [(e.json()["done"], e.json()["state"], e.durable) for e in events]


def test_the_first_and_the_last_event_are_durable_and_the_rest_leaves_at_once(
    seen: list[Event],
) -> None:
    with progress(GROUP, total=3) as report:
        eventually(lambda: time.monotonic() > report._next_at)
        report.advance()
        assert states(seen) == [(0, "running", True), (1, "running", False)]
        report.at(3, text="nearly")
    assert states(seen)[-1] == (3, "done", True)
    assert seen[-1].json() == {"done": 3, "total": 3, "text": "nearly", "state": "done"}
    assert {event.name for event in seen} == {"progress"}
    assert seen[1].key == "progress"


async def test_async_code_reports_too(seen: list[Event]) -> None:
    async with progress(GROUP) as report:
        report.at(2)
        await asyncio.to_thread(report.advance, 2)
    assert states(seen) == [(0, "running", True), (4, "done", True)]
    assert seen[-1].json()["total"] is None


def test_an_exception_is_told_without_its_text_and_goes_on(seen: list[Event]) -> None:
    def work() -> None:
        with progress(GROUP) as report:
            report.advance()
            raise ZeroDivisionError("secret")

    with pytest.raises(ZeroDivisionError, match="secret"):
        work()
    assert states(seen) == [(0, "running", True), (1, "failed", True)]
    assert "secret" not in seen[-1].data


async def test_a_task_that_is_cancelled_has_failed(seen: list[Event]) -> None:
    async def work() -> None:
        async with progress(GROUP):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.to_thread(eventually, lambda: seen)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert states(seen)[-1] == (0, "failed", True)


def test_there_are_at_most_ten_a_second(seen: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    waits: list[float] = []

    def later(self: object, seconds: float) -> SimpleNamespace:
        waits.append(seconds)
        return SimpleNamespace(cancel=lambda: None)

    monkeypatch.setattr(task_progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(task_progress.Progress, "_start_timer", later)
    with progress(GROUP, total=10**9) as report:
        for n in range(1, 6):
            for _ in range(100):
                report.advance()
            assert len(seen) == n
            clock.now += waits[-1]
            report._on_timer()
            assert states(seen)[-1] == (100 * n, "running", False)
    assert waits == pytest.approx([0.1] * 5)
    assert states(seen)[-1] == (500, "done", True)


def test_where_nothing_more_is_reported_the_latest_leaves_nevertheless(seen: list[Event]) -> None:
    with progress(GROUP, total=10**9) as report:
        for _ in range(100):
            report.advance()
        eventually(lambda: states(seen)[-1] == (100, "running", False))


async def test_in_async_code_the_latest_leaves_while_the_task_waits(seen: list[Event]) -> None:
    async with progress(GROUP) as report:
        for _ in range(5):
            report.advance()
        await asyncio.to_thread(eventually, lambda: len(seen) == 2)
        assert states(seen)[1] == (5, "running", False)


def test_no_timer_outlives_the_block_and_nothing_follows_the_end(
    seen: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_progress, "PAUSE_SECONDS", 3600)
    with progress(GROUP) as report:
        report.advance()
        assert isinstance(report._timer, threading.Timer)
        timer = report._timer
    assert not timer.is_alive()
    report._on_timer()  # As if it had begun just before the end.
    assert states(seen) == [(0, "running", True), (1, "done", True)]


def test_reports_of_many_threads_are_in_order_and_none_is_forgotten(
    seen: list[Event], interrupted: None
) -> None:
    with progress(GROUP, total=2000) as report:
        work = [
            threading.Thread(target=lambda: [report.advance() for _ in range(500)])
            for _ in range(4)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
    done = [event.json()["done"] for event in seen]
    assert done == sorted(done)
    assert done[-1] == 2000


def test_inside_a_transaction_only_the_durable_ones_wait_for_its_end(seen: list[Event]) -> None:
    with transaction.atomic(), progress(GROUP) as report:
        report.advance()
        eventually(lambda: seen, "the report waits for the transaction")
        transaction.set_rollback(True)
    assert states(seen) == [(1, "running", False)]
    with progress(GROUP) as report, transaction.atomic():
        report.advance()
    assert states(seen)[1:] == [(0, "running", True), (1, "done", True)]


def test_a_log_that_fails_does_not_fail_a_task_that_is_done(
    seen: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any) -> None:
        raise OSError("the log is away")

    with progress(GROUP) as report:
        report.advance()
        monkeypatch.setattr(event_log(), "append", away)
    assert states(seen)[-1][1] == "running"
    with pytest.raises(OSError, match="away"), progress(GROUP):
        raise AssertionError("the block must not begin")


@pytest.mark.parametrize("total", [-1, float("nan"), float("inf"), "5"])
def test_what_is_no_amount_is_refused(total: Any) -> None:
    with pytest.raises(ValueError, match="Invalid amount"):
        progress(GROUP, total)
    with progress(GROUP) as report, pytest.raises(ValueError, match="Invalid amount"):
        report.at(total)


def test_a_report_is_refused_outside_the_block_and_with_a_text_beyond_an_event() -> None:
    report = progress(GROUP)
    with pytest.raises(RuntimeError, match="within the block"):
        report.advance()
    with report, pytest.raises(ValueError, match="MAX_EVENT_BYTES"):
        report.at(1, text="x" * 65_536)
    assert report.done == 0
    with pytest.raises(RuntimeError, match="within the block"):
        report.advance()
    with pytest.raises(RuntimeError, match="entered once"), report:
        pass


@pytest.mark.slow
async def test_the_demos_import_is_seen_live_and_by_who_comes_late(daphne: Daphne) -> None:
    async with (
        httpx.AsyncClient(timeout=PATIENCE, base_url=daphne.url) as client,
        daphne.stream("group=import&from=-1") as early,
    ):
        await early.next()
        page = await client.get("/import/")
        assert 'data-stream="/events/?group=import&amp;from=-1"' in page.text
        headers = {"X-CSRFToken": client.cookies["csrftoken"]}
        answers = [await client.post("/import/start/", headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 409]
        heard = [(await early.next()).json()]
        while heard[-1]["state"] == "running":
            heard.append((await early.next()).json())
    assert heard[0] == {"done": 0, "total": 200, "text": "", "state": "running"}
    assert len(heard) > 5
    assert [h["done"] for h in heard] == sorted(h["done"] for h in heard)
    assert (heard[-1]["done"], heard[-1]["state"]) == (200, "done")
    async with daphne.stream("group=import&from=-1") as late:
        await late.next()
        assert (await late.next()).json() == heard[-1]
