"""The latest events in memory: what they cost, and the budget that all groups of a hub share."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest

from sse_app import publish
from sse_app.delivery import recent as module
from sse_app.delivery.recent import BUDGET_BYTES, RECENT_BYTES, RECENT_EVENTS, Budget, Recent
from sse_app.delivery.topics import Topic
from sse_app.protocol.cursors import Position
from sse_app.protocol.events import Event

from ..support.subscribers import Reader


def event_at(offset: int, size: int, group: str = "g") -> Event:
    event = Event.of(group, "n", f"{offset:06}" + "x" * size)
    return event.at("epoch", offset, f"m{offset % 1000:03}", f"m{(offset - 1) % 1000:03}")


def filled(budget: Budget, events: int, size: int, group: str = "g") -> Recent:
    recent = Recent(budget)
    for offset in range(1, events + 1):
        recent.append(event_at(offset, size, group))
    return recent


@pytest.mark.parametrize("size", [10, 200, 60_000])
def test_the_budget_counts_what_the_events_really_cost(size: int) -> None:
    budget, kept = Budget(), []
    gc.collect()
    tracemalloc.start()
    for n in range(40):
        kept.append(filled(budget, 8, size, f"group.{n}"))
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(map(len, kept)) == 320
    assert 0.8 < budget.bytes / taken < 1.25


def test_one_group_keeps_at_most_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(filled(Budget(), RECENT_EVENTS + 10, 10)) == RECENT_EVENTS
    budget = Budget()
    large = filled(budget, 30, 60_000)
    assert budget.bytes <= RECENT_BYTES
    assert 0 < len(large) < 30
    assert large.first is not None
    assert large.first.offset == 31 - len(large)


def test_beyond_the_budget_the_group_that_was_used_least_recently_forgets() -> None:
    budget = Budget()
    groups = [filled(budget, 17, 60_000, f"group.{n}") for n in range(60)]
    assert all(map(len, groups))
    # A read is a use, as is an event.
    assert groups[0].after(Position("epoch", 16), 1)
    while all(map(len, groups)):
        groups.append(filled(budget, 17, 60_000, f"group.{len(groups)}"))
    assert [len(group) > 0 for group in groups[:3]] == [True, False, True]
    groups += [filled(budget, 17, 60_000, f"later.{n}") for n in range(200)]
    assert budget.bytes <= BUDGET_BYTES
    assert sum(len(group) > 0 for group in groups) == len(budget._used)
    for group in groups:
        group.clear()
    assert (budget.bytes, len(budget._used)) == (0, 0)


def test_a_topic_that_forgot_reads_the_log_and_says_so() -> None:
    budget = Budget()
    topic = Topic("g", budget)
    topic.start(Position("epoch", 0))
    for offset in range(1, 4):
        topic.offer(event_at(offset, 10))
    run = topic.recent(Position("epoch", 1), 10)
    assert [event.offset for event in run or ()] == [2, 3]
    assert topic.recent(Position("epoch", 1, "else"), 10) is None, "the log says what that means"
    topic.forget_recent()
    assert topic.recent(Position("epoch", 1), 10) is None
    assert budget.bytes == 0


@pytest.mark.usefixtures("memory")
async def test_a_group_without_readers_has_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    stays, goes = await Reader().start("stays"), await Reader().start("goes")
    budget: Any = stays.hub._budget
    for reader, group in ((stays, "stays"), (goes, "goes")):
        publish(group, "n", "1")
        await reader.sink.until("1")
    both = budget.bytes
    await goes.stop()
    assert 0 < budget.bytes < both
    monkeypatch.setattr(module, "BUDGET_BYTES", 1)
    publish("stays", "n", "2")
    await stays.sink.until("2")
    assert budget.bytes == 0
    await stays.stop()
