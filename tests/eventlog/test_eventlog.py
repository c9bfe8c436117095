"""One contract suite for every event log, then what only the database log promises."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, ProgrammingError, connections, transaction
from django.db.migrations.loader import MigrationLoader
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from sse_app.eventlog import (
    DatabaseEventLog,
    Discontinuity,
    EventLog,
    MemoryEventLog,
    RedisEventLog,
    event_log,
    make_event_log,
)
from sse_app.eventlog.database_rows import Tables
from sse_app.eventlog.database_sqlite import watch_file
from sse_app.models import GroupHead, StoredEvent
from sse_app.protocol.cursors import START, Cursor, Position, encode_cursor
from sse_app.protocol.events import Event, Excluded

from ..support.patience import PATIENCE
from ..support.servers import eventually

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])

DATABASES = ["default", "postgresql"]


@pytest.fixture(params=["memory", "sqlite", "postgresql", "redis", "cluster"])
def log(request: pytest.FixtureRequest) -> EventLog:
    """Each log in turn."""
    if request.param == "memory":
        return MemoryEventLog()
    if request.param in ("redis", "cluster"):
        url = request.getfixturevalue("valkey" if request.param == "redis" else "valkey_cluster")
        prefix = f"test.{uuid.uuid4().hex}"
        return RedisEventLog(url, prefix=prefix, cluster=request.param == "cluster")
    return DatabaseEventLog("default" if request.param == "sqlite" else "postgresql")


@pytest.fixture(params=DATABASES)
def database_log(request: pytest.FixtureRequest) -> DatabaseEventLog:
    """The database log on each database in turn."""
    return DatabaseEventLog(request.param)


def made(group: str, *data: str) -> list[Event]:
    return [Event.of(group, "n", text) for text in data]


def texts(events: list[Event]) -> list[str]:
    return [event.data for event in events]


def offsets(events: list[Event]) -> list[int | None]:
    return [event.offset for event in events]


def head(log: EventLog, group: str = "g") -> Position:
    return log.heads([group])[group]


def refused(log: EventLog, after: Position, group: str = "g") -> Discontinuity:
    with pytest.raises(Discontinuity) as caught:
        log.since(group, after, 10)
    return caught.value


async def read_each(
    log: EventLog, reads: list[tuple[str, Position]]
) -> list[list[Event] | Exception]:
    try:
        return await log.asince_each(reads, 2)
    finally:
        await log.aclose()


@contextmanager
def hours_ago(hours: float) -> Iterator[None]:
    """Let the logs' clocks stand in the past."""
    import time

    then, at = time.time() - hours * 3600, timezone.now() - timedelta(hours=hours)
    clock = SimpleNamespace(time=lambda: then)
    of_postgresql = f"(clock_timestamp() - interval '{hours} hours')"
    with (
        mock.patch("sse_app.eventlog.database_rows.CLOCK", of_postgresql),
        mock.patch("sse_app.eventlog.database_postgresql.CLOCK", of_postgresql),
        mock.patch("sse_app.eventlog.database_numbering.CLOCK", of_postgresql),
        mock.patch("sse_app.eventlog.memory.time", clock),
        mock.patch("sse_app.eventlog.redis.time", clock),
        mock.patch("django.utils.timezone.now", return_value=at),
    ):
        yield


def run_in_thread(work: Callable[[], Any]) -> Any:
    """Run on another thread, which has database connections of its own."""

    def run() -> Any:
        try:
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(run).result(PATIENCE)


# --- the contract ---


async def test_an_event_keeps_the_pages_that_it_excludes(log: EventLog) -> None:
    pages = (Excluded("a1", "5", "t-1"), Excluded("b2", "", ""))
    events = [Event.of("g", "n", "1").exclude(pages), *made("g", "2")]
    assert [one.excluded for one in await sync_to_async(log.append)(events)] == [pages, ()]
    assert [one.excluded for one in await sync_to_async(log.since)("g", START, 10)] == [pages, ()]
    (found,) = await read_each(log, [("g", START)])
    assert isinstance(found, list)
    assert [one.excluded for one in found] == [pages, ()]
    assert texts(found) == ["1", "2"]


@pytest.mark.parametrize("own", [False, True])
def test_a_staged_event_keeps_the_pages_that_it_excludes(
    database_log: DatabaseEventLog, own: bool
) -> None:
    """Numbered after the commit, or with the next append in one pass."""
    pages = (Excluded("a1", "5", "t-1"),)
    with transaction.atomic(using=database_log.alias):
        database_log.stage([Event.of("g", "n", "1").exclude(pages)])
    numbered = database_log.append(made("g", "2")) if own else database_log.number(["g"])
    assert numbered[0].excluded == pages
    assert database_log.since("g", START, 1)[0].excluded == pages


def test_offsets_are_contiguous_from_1_in_each_group(log: EventLog) -> None:
    first = log.append([*made("a", "1", "2"), *made("b", "1"), *made("a", "3")])
    second = log.append([*made("b", "2"), *made("a", "4")])
    assert [(e.group, e.offset, e.data) for e in first + second] == [
        ("a", 1, "1"),
        ("a", 2, "2"),
        ("b", 1, "1"),
        ("a", 3, "3"),
        ("b", 2, "2"),
        ("a", 4, "4"),
    ]
    assert len({e.epoch for e in first + second if e.group == "a"}) == 1
    assert head(log, "a") == (first[0].epoch, 4, second[1].mark)


def test_append_returns_the_given_events_at_their_places(log: EventLog) -> None:
    given = Event.of("g", "order.updated", {"id": 5})
    (placed,) = log.append([given])
    assert placed == given.at(placed.epoch or "", 1, placed.mark, placed.previous)
    assert log.since("g", START, 10) == [placed]


def test_since_returns_contiguous_pages(log: EventLog) -> None:
    placed = log.append(made("g", *(str(n) for n in range(10))))
    epoch, read, after = placed[0].epoch or "", [], START
    while page := log.since("g", after, 3):
        assert len(page) <= 3
        read += page
        after = Position(epoch, page[-1].offset or 0)
    assert read == placed


def test_start_fits_any_epoch(log: EventLog) -> None:
    log.append(made("g", "1"))
    log.renew_epoch(["g"])
    assert texts(log.since("g", START, 10)) == ["1"]


def test_since_is_empty_at_the_head_only(log: EventLog) -> None:
    assert log.since("g", START, 10) == []
    log.append(made("g", "1", "2"))
    assert log.since("g", head(log), 10) == []
    assert texts(log.since("g", Position(head(log).epoch, 1), 10)) == ["2"]


def test_a_position_of_another_epoch_is_refused(log: EventLog) -> None:
    log.append(made("g", "1"))
    refusal = refused(log, Position("other", 1))
    assert (refusal.reason, refusal.head) == ("epoch", head(log))


def test_a_position_in_a_group_that_never_was_is_refused(log: EventLog) -> None:
    refusal = refused(log, Position("other", 1))
    assert refusal.reason == "epoch"
    assert refusal.head == head(log)
    assert refusal.head.is_start


def test_a_position_after_the_head_is_refused(log: EventLog) -> None:
    log.append(made("g", "1"))
    refusal = refused(log, Position(head(log).epoch, 2))
    assert (refusal.reason, refusal.head) == ("future", head(log))


def test_a_position_before_what_is_left_is_refused(log: EventLog) -> None:
    log.append(made("g", "1", "2", "3", "4"))
    with override_settings(SSE_APP={"RETENTION_EVENTS": 2}):
        log.prune()
    for after in (START, Position(head(log).epoch, 1)):
        refusal = refused(log, after)
        assert (refusal.reason, refusal.head) == ("trimmed", head(log))
    assert texts(log.since("g", Position(head(log).epoch, 2), 10)) == ["3", "4"]


def test_heads_of_unknown_groups_are_start(log: EventLog) -> None:
    log.append(made("a", "1"))
    heads = log.heads(["a", "b"])
    assert set(heads) == {"a", "b"}
    assert heads["b"].is_start
    assert heads["b"] == log.heads(["c"])["c"], "all have the mark of the whole log"
    assert heads["a"].offset == 1
    assert log.heads([]) == {}


def test_a_cursor_can_hold_every_head(log: EventLog) -> None:
    log.append(made("g", "1"))
    cursor = Cursor.parse(encode_cursor(log.heads(["g", "unknown"]), 0))
    assert cursor is not None


def test_each_event_has_a_mark_and_knows_the_mark_before_it(log: EventLog) -> None:
    events = log.append([*made("a", "1", "2"), *made("b", "1")])
    events += log.append(made("a", "3"))
    of_a = [event for event in events if event.group == "a"]
    assert len({event.mark for event in events}) == len(events)
    first, *others = [event.previous for event in of_a]
    assert others == [of_a[0].mark, of_a[1].mark]
    # On a cluster, one script can't read the mark of the whole log.
    assert first in (log.heads(["no.such.group"])["no.such.group"].mark, "")
    assert log.since("a", START, 10) == of_a
    assert head(log, "a") == of_a[-1].position


def test_a_position_that_another_event_took_is_refused(log: EventLog) -> None:
    """As after a failover that lost events, when the log has grown again."""
    events = log.append(made("g", "1", "2", "3"))
    for event in events:
        (known, lost) = event.position, event.position
        assert known is not None
        assert lost is not None
        lost = lost._replace(mark="lost")
        refusal = refused(log, lost)
        assert (refusal.reason, refusal.head) == ("epoch", head(log))
        assert log.since("g", known, 10) == events[known.offset :]
        unknown = known._replace(mark="")
        assert log.since("g", unknown, 10) == events[known.offset :]


def test_an_older_version_appends_to_the_same_log(database_log: DatabaseEventLog) -> None:
    """The SQL of the version before the marks: a rolling update runs both."""
    log = database_log
    (first,) = log.append(made("g", "1"))
    with connections[log.alias].cursor() as cursor:
        cursor.execute("""UPDATE sse_app_grouphead SET "offset" = 2 WHERE "group" = 'g'""")
        cursor.execute(
            'INSERT INTO sse_app_storedevent ("group", "offset", "name", "data", "created_at") '
            """VALUES ('g', 2, 'n', %s, %s)""",
            [b"2", timezone.now()],
        )
    assert log.heads(["g"]) == {"g": Position(first.epoch or "", 2, "")}
    (third,) = log.append(made("g", "3"))
    assert third.previous == ""
    assert first.position is not None
    for after in (first.position, Position(first.epoch or "", 2)):
        assert texts(log.since("g", after, 10))[-1] == "3"
    assert head(log) == third.position
    assert refused(log, first.position._replace(offset=3)).reason == "epoch"


def test_reads_of_many_groups_together_give_what_each_read_alone_gives(
    log: EventLog,
) -> None:
    def reads_of(group: str, events: list[Event]) -> Iterator[tuple[str, Position]]:
        for event in events:
            position = event.position or START
            yield group, position
            yield group, position._replace(mark="lost")
            yield group, position._replace(epoch="another")
            yield group, position._replace(offset=position.offset + 10)
        yield group, START

    groups = {f"g{n}": [f"{n}.{i}" for i in range(n)] for n in range(5)}
    events = {group: log.append(made(group, *data)) for group, data in groups.items()}
    reads = [read for group in groups for read in reads_of(group, events[group])]
    alone: list[Any] = []
    for group, after in reads:
        try:
            alone.append(log.since(group, after, 2))
        except Discontinuity as error:
            alone.append(error)
    together = async_to_sync(read_each)(log, reads)
    assert list(map(repr, together)) == list(map(repr, alone))
    assert {type(one) for one in together} == {list, Discontinuity}


def test_reads_of_many_groups_are_two_statements(database_log: DatabaseEventLog) -> None:
    groups = [f"g{n}" for n in range(100)]
    database_log.append([event for group in groups for event in made(group, "1", "2")])
    reads = [(group, Position(head(database_log, group).epoch, 1)) for group in groups]
    with CaptureQueriesContext(connections[database_log.alias]) as queries:
        pages = async_to_sync(database_log.asince_each)(reads, 10)
    assert [texts(page) for page in pages if isinstance(page, list)] == [["2"]] * 100
    assert len(queries) == 2


async def test_a_log_with_a_read_of_its_own_is_read_by_it() -> None:
    class Shouting(DatabaseEventLog):
        def since(self, group: str, after: Position, limit: int) -> list[Event]:
            return made(group, "read by the subclass")

    (page,) = await Shouting("default").asince_each([("g", START)], 10)
    assert isinstance(page, list)
    assert texts(page) == ["read by the subclass"]


def test_the_mark_at_a_position_outlives_its_event(log: EventLog) -> None:
    events = log.append(made("g", "1", "2", "3"))
    with override_settings(SSE_APP={"RETENTION_EVENTS": 1}):
        log.prune()
    assert events[1].position is not None
    assert log.since("g", events[1].position, 10) == events[2:]
    assert refused(log, events[1].position._replace(mark="lost")).reason == "epoch"


def test_earliest_is_the_position_before_what_is_left(log: EventLog) -> None:
    assert log.earliest("g").is_start
    log.append(made("g", "1", "2", "3"))
    assert log.earliest("g") == (head(log).epoch, 0, "")
    with override_settings(SSE_APP={"RETENTION_EVENTS": 1}):
        log.prune()
    assert log.earliest("g") == (head(log).epoch, 2, "")
    assert texts(log.since("g", log.earliest("g"), 10)) == ["3"]


def test_each_event_has_the_time_at_which_it_came(log: EventLog) -> None:
    assert log.times("g", 0, 10) == {}
    began = time.time()
    log.append(made("g", "1", "2"))
    log.append(made("h", "1"))
    log.append(made("g", "3"))
    times = log.times("g", 1, 10)
    assert list(times) == [2, 3]
    assert all(began - 0.01 <= at <= time.time() for at in times.values())
    assert list(log.times("g", 0, 2)) == [1, 2]


def test_prune_by_count_keeps_the_latest_of_each_group(log: EventLog) -> None:
    log.append([*made("a", "1", "2", "3"), *made("b", "1")])
    with override_settings(SSE_APP={"RETENTION_EVENTS": 2}):
        assert log.prune() == 1
        assert log.prune() == 0
    assert texts(log.since("a", log.earliest("a"), 10)) == ["2", "3"]
    assert texts(log.since("b", START, 10)) == ["1"]


def test_prune_by_age_keeps_what_is_young(log: EventLog) -> None:
    with hours_ago(3):
        log.append(made("g", "old"))
    with hours_ago(1):
        log.append(made("g", "young"))
    with override_settings(SSE_APP={"RETENTION_SECONDS": 2 * 3600}):
        assert log.prune() == 1
    assert texts(log.since("g", log.earliest("g"), 10)) == ["young"]
    assert head(log).offset == 2


@pytest.mark.parametrize("seconds", [None, 10**11, 1e300, float("inf")])
def test_without_a_limit_of_age_events_and_heads_stay(log: EventLog, seconds: Any) -> None:
    """A hundred years are no limit either, and overflow neither dates nor the integers of Redis."""
    with override_settings(SSE_APP={"RETENTION_SECONDS": seconds}):
        with hours_ago(24 * 365 * 20):
            log.append([*made("g", "old"), *made("idle", "1", "2")])
        before = log.heads(["g", "idle"])
        assert log.prune() == 0
        log.append(made("g", "young"))
        assert texts(log.since("g", START, 10)) == ["old", "young"]
        assert log.heads(["idle"])["idle"] == before["idle"]
    with override_settings(SSE_APP={"RETENTION_SECONDS": 3600}):
        assert log.prune() == 3
    assert log.heads(["idle"])["idle"].offset == 0


def test_prune_by_age_keeps_the_last_events_of_retained_groups(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One step sees one row: what stays must not hide what can go.
    monkeypatch.setattr("sse_app.eventlog.database_pruning.STEP_ROWS", 1)
    groups = ("price.gold", "price.1", "_red.price.gold", "priceless", "idle")
    retain = {"RETAIN": {"price.*": 1, "*.1": 2}}
    with override_settings(SSE_APP=retain), hours_ago(5):
        log.append([event for group in groups for event in made(group, "1", "2", "3")])
    before = log.heads(groups)
    with override_settings(SSE_APP={**retain, "RETENTION_SECONDS": 3600}):
        assert log.prune() == 2 + 1 + 2 + 3 + 3
        assert log.prune() == 0
        for group, kept in zip(groups[:3], (["3"], ["2", "3"], ["3"]), strict=True):
            assert texts(log.since(group, log.earliest(group), 10)) == kept
            assert log.heads([group]) == {group: before[group]}
        # A younger event takes the place of the oldest that was kept.
        log.append(made("price.gold", "4"))
        log.prune()
        assert texts(log.since("price.gold", log.earliest("price.gold"), 10)) == ["4"]


def test_an_idle_groups_head_outlives_its_events(log: EventLog) -> None:
    """Else a reader who saw the group empty would take its new beginning for the continuation."""
    with hours_ago(3):
        log.append(made("idle", "1"))
    before = head(log, "idle")
    with override_settings(SSE_APP={"RETENTION_SECONDS": 2 * 3600}):
        assert log.prune() == 1
    assert head(log, "idle") == before
    assert log.since("idle", before, 10) == []
    assert refused(log, START, "idle").reason == "trimmed"
    assert log.earliest("idle").agrees(before)
    log.append(made("idle", "2"))
    assert texts(log.since("idle", before, 10)) == ["2"]
    assert refused(log, START, "idle").reason == "trimmed"


def test_pruning_goes_on_where_its_limit_stopped_it(log: EventLog) -> None:
    log.append([*made("a", *map(str, range(30))), *made("b", *map(str, range(30)))])
    with override_settings(SSE_APP={"RETENTION_EVENTS": 10}):
        assert [log.prune(25), log.prune(25), log.prune(25)] == [25, 15, 0]
    for group in ("a", "b"):
        kept = log.since(group, log.earliest(group), 100)
        assert texts(kept) == [str(n) for n in range(20, 30)]


def test_of_several_who_find_the_same_loss_one_renews(log: EventLog) -> None:
    (placed,) = log.append(made("g", "1"))
    assert log.renew_epoch(["g"], only=placed.epoch) == 1
    renewed = head(log)
    assert log.renew_epoch(["g"], only=placed.epoch) == 0
    assert head(log) == renewed
    assert log.renew_epoch(["unknown"]) == 0


def test_an_idle_group_is_pruned_with_its_head_and_wakes_under_a_new_epoch(log: EventLog) -> None:
    with hours_ago(3):
        log.append([*made("idle", "1"), *made("busy", "1")])
    before = head(log, "idle")
    log.append(made("busy", "2"))
    with override_settings(SSE_APP={"RETENTION_SECONDS": 3600}):
        assert log.prune() == 2
    assert head(log, "idle").is_start
    assert head(log, "busy").offset == 2
    assert refused(log, before, "idle").reason == "epoch"
    (woken,) = log.append(made("idle", "again"))
    assert woken.offset == 1
    assert woken.epoch != before.epoch
    assert refused(log, before, "idle").reason == "epoch"


def test_a_new_epoch_keeps_the_events_and_resets_older_positions(log: EventLog) -> None:
    log.append([*made("a", "1"), *made("b", "1")])
    a, b = head(log, "a"), head(log, "b")
    log.renew_epoch(["a"])
    assert refused(log, a, "a").reason == "epoch"
    assert head(log, "b") == b
    (placed,) = log.append(made("a", "2"))
    assert placed.offset == 2
    assert placed.epoch == head(log, "a").epoch != a.epoch
    events = log.since("a", START, 10)
    assert texts(events) == ["1", "2"]
    assert {event.epoch for event in events} == {placed.epoch}


def test_a_new_epoch_for_all_groups_reaches_all_groups(log: EventLog) -> None:
    log.append([*made("a", "1"), *made("b", "1")])
    before = log.heads(["a", "b"])
    log.renew_epoch()
    after = log.heads(["a", "b"])
    assert all(before[group].epoch != after[group].epoch for group in before)
    assert all(before[group].offset == after[group].offset for group in before)


@pytest.mark.parametrize(
    "data", ["", "\0", "a\0b", "é", "\ufeff", "\u2028", "🙂", "'; --", "%s", "\n", "x" * 60_000]
)
def test_awkward_data_survives(log: EventLog, data: str) -> None:
    log.append(made("g", data))
    assert texts(log.since("g", START, 10)) == [data]


async def test_the_async_twins_do_the_same(log: EventLog) -> None:
    (placed,) = await log.aappend(made("g", "1"))
    both = await log.aappend([*made("g", "2"), *made("h", "1"), *made("g", "3")])
    assert [(e.group, e.offset) for e in both] == [("g", 2), ("h", 1), ("g", 3)]
    assert await log.aheads(["g", "h"]) == {"g": both[2].position, "h": both[1].position}
    assert await log.aheads(["g"]) == await asyncio.to_thread(run_in_thread, lambda: head_of(log))
    assert await log.asince("g", START, 10) == [placed, both[0], both[2]]
    assert await log.aearliest("g") == (placed.epoch, 0, "")
    assert await log.anumber() == []
    with pytest.raises(Discontinuity):
        await log.asince("g", Position("other", 1), 10)
    await log.aclose()
    assert (await log.aheads(["h"]))["h"].offset == 1, "it opens again what it needs"
    assert await log.arenew_epoch(["h"]) == 1
    assert (await log.aheads(["h"]))["h"].epoch != both[1].epoch
    with override_settings(SSE_APP={"RETENTION_EVENTS": 1}):
        assert await log.aprune(1) == 1
        assert await log.aprune() == 1
    await log.aclose()


def head_of(log: EventLog) -> dict[str, Position]:
    return log.heads(["g"])


def test_ten_threads_that_append_to_one_group_leave_no_gap_and_keep_their_order(
    log: EventLog,
) -> None:
    barrier = threading.Barrier(10)

    def append(thread: int) -> list[Event]:
        barrier.wait(PATIENCE)
        try:
            return [
                event for n in range(10) for event in log.append(made("g", f"{thread} {n}", "+"))
            ]
        finally:
            connections.close_all()

    with ThreadPoolExecutor(10) as executor:
        returned = [event for run in executor.map(append, range(10)) for event in run]
    events = log.since("g", START, 1000)
    assert offsets(events) == list(range(1, 201))
    assert sorted(returned, key=lambda event: event.offset or 0) == events
    read = texts(events)
    for thread in range(10):
        mine = [text for text in read if text.startswith(f"{thread} ")]
        assert mine == [f"{thread} {n}" for n in range(10)]
    # Nothing stands between two events of one append.
    assert all(read[n + 1] == "+" for n in range(0, 200, 2))


def test_groups_appended_in_opposite_orders_by_many_threads_do_not_deadlock(log: EventLog) -> None:
    barrier = threading.Barrier(6)

    def append(thread: int) -> None:
        barrier.wait(PATIENCE)
        names = ["a", "b", "c"] if thread % 2 else ["c", "b", "a"]
        try:
            for n in range(10):
                log.append([event for name in names for event in made(name, f"{thread} {n}")])
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as executor:
        list(executor.map(append, range(6)))
    for group in ("a", "b", "c"):
        assert offsets(log.since(group, START, 1000)) == list(range(1, 61))


def test_the_names_of_groups_are_known_by_a_part_of_them(log: EventLog) -> None:
    mark = uuid.uuid4().hex[:8]  # A Redis may have others.
    for name in ("b.order", "a.orders", "news", "a_b", "axb"):
        log.append(made(f"{name}.{mark}", "1"))
    assert log.known(f"order.{mark}", 10) == [f"b.order.{mark}"]
    assert log.known(f"orders.{mark}", 10) == [f"a.orders.{mark}"]
    assert log.known(f".{mark}", 2) == [f"a.orders.{mark}", f"a_b.{mark}"]
    for strange in ("%", "*", "a[_x]b", "\\", "{", "nobody"):
        assert log.known(f"{strange}.{mark}", 10) == []
    assert log.known(f"a_b.{mark}", 10) == [f"a_b.{mark}"]


# --- the database log ---


def test_an_append_in_a_transaction_has_its_place_and_leaves_no_trace_of_a_rollback(
    database_log: DatabaseEventLog,
) -> None:
    with transaction.atomic(using=database_log.alias):
        (never,) = database_log.append(made("g", "never"))
        assert never.offset == 1
        if database_log.alias == "postgresql":
            assert run_in_thread(lambda: head(database_log)) == START
        transaction.set_rollback(True, using=database_log.alias)
    assert head(database_log) == START
    with transaction.atomic(using=database_log.alias):
        (first,) = database_log.append(made("g", "1"))
    assert database_log.since("g", START, 10) == [first]
    assert first.offset == 1


def test_who_publishes_beside_an_append_in_a_transaction_goes_on_after_it() -> None:
    log = DatabaseEventLog("postgresql")
    with ThreadPoolExecutor(1) as executor:
        with transaction.atomic(using="postgresql"):
            (mine,) = log.append(made("g", "mine"))
            beside = executor.submit(
                lambda: (log.append(made("g", "beside")), connections.close_all())
            )
            assert run_in_thread(lambda: log.append(made("other", "1")))  # Nobody else waits.
            assert not beside.done()
        ((after,), _) = beside.result(PATIENCE)
    assert (mine.offset, after.offset) == (1, 2)
    assert texts(log.since("g", START, 10)) == ["mine", "beside"]


def test_a_staged_event_is_gone_after_a_rollback(database_log: DatabaseEventLog) -> None:
    with transaction.atomic(using=database_log.alias):
        database_log.stage(made("g", "never"))
        transaction.set_rollback(True, using=database_log.alias)
    assert database_log.number() == []
    assert head(database_log) == START
    assert not StoredEvent.objects.using(database_log.alias).exists()
    assert not GroupHead.objects.using(database_log.alias).exists()


def test_a_staged_event_is_unseen_until_it_is_numbered(database_log: DatabaseEventLog) -> None:
    with transaction.atomic(using=database_log.alias):
        database_log.stage(made("g", "1"))
    assert head(database_log) == START
    assert database_log.since("g", START, 10) == []
    assert database_log.earliest("g") == START
    (placed,) = database_log.number(["g"])
    assert (placed.data, placed.offset) == ("1", 1)
    assert database_log.since("g", START, 10) == [placed]


def test_a_staged_event_is_never_overtaken_by_a_later_append(
    database_log: DatabaseEventLog,
) -> None:
    with transaction.atomic(using=database_log.alias):
        database_log.stage([*made("g", "staged 1", "staged 2"), *made("other", "x")])
    returned = database_log.append(made("g", "appended"))
    assert [(e.data, e.offset) for e in returned] == [
        ("staged 1", 1),
        ("staged 2", 2),
        ("appended", 3),
    ]
    assert database_log.since("g", START, 10) == returned
    assert head(database_log, "other") == START


def test_numbering_again_changes_nothing(database_log: DatabaseEventLog) -> None:
    database_log.append(made("g", "1"))
    with transaction.atomic(using=database_log.alias):
        database_log.stage(made("g", "2"))
    before = database_log.number(["g"])
    heads = database_log.heads(["g"])
    assert offsets(before) == [2]
    assert database_log.number(["g"]) == []
    assert database_log.number() == []
    assert database_log.heads(["g"]) == heads
    assert texts(database_log.since("g", START, 10)) == ["1", "2"]


def test_number_touches_the_groups_it_is_given_only(database_log: DatabaseEventLog) -> None:
    with transaction.atomic(using=database_log.alias):
        database_log.stage([*made("a", "1"), *made("b", "1")])
    assert [event.group for event in database_log.number(["a"])] == ["a"]
    assert [event.group for event in database_log.number()] == ["b"]


def test_nothing_to_store_or_number_is_no_error(log: EventLog) -> None:
    assert log.append([]) == []
    assert log.number([]) == []


def test_ten_threads_that_number_give_each_row_one_place(database_log: DatabaseEventLog) -> None:
    with transaction.atomic(using=database_log.alias):
        database_log.stage(made("g", *(str(n) for n in range(30))))
    barrier = threading.Barrier(10)

    def number(_: int) -> list[Event]:
        barrier.wait(PATIENCE)
        try:
            return database_log.number()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(10) as executor:
        placed = [event for run in executor.map(number, range(10)) for event in run]
    assert sorted(offsets(placed), key=int) == list(range(1, 31))  # type: ignore[arg-type]
    assert texts(database_log.since("g", START, 100)) == [str(n) for n in range(30)]


def test_more_rows_than_one_statement_takes_are_stored_in_order(
    database_log: DatabaseEventLog,
) -> None:
    data = [str(n) for n in range(2500)]
    with transaction.atomic(using=database_log.alias):
        database_log.stage(made("g", *data))
    assert texts(database_log.number()) == data
    database_log.append(made("g", *data))
    events = database_log.since("g", START, 10_000)
    assert texts(events) == data + data
    assert offsets(events) == list(range(1, 5001))


def test_two_sessions_that_commit_in_the_other_order_skip_nothing() -> None:
    log = DatabaseEventLog("postgresql")
    begun, committed = threading.Event(), threading.Event()

    def slow() -> list[Event]:
        try:
            with transaction.atomic(using="postgresql"):
                log.stage(made("g", "slow"))
                begun.set()
                assert committed.wait(PATIENCE)
            return log.number(["g"])
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as executor:
        late = executor.submit(slow)
        assert begun.wait(PATIENCE)
        with transaction.atomic(using="postgresql"):
            log.stage(made("g", "quick"))
        quick = log.number(["g"])
        after = head(log)
        committed.set()
        (second,) = late.result(PATIENCE)
    assert [(e.data, e.offset) for e in quick] == [("quick", 1)]
    assert log.since("g", after, 10) == [second]
    assert texts(log.since("g", START, 10)) == ["quick", "slow"]
    pks = StoredEvent.objects.using("postgresql").order_by("offset").values_list("pk", flat=True)
    assert list(pks) != sorted(pks), "the lower key was to commit later"


def test_an_open_transaction_that_staged_does_not_hold_up_others() -> None:
    log = DatabaseEventLog("postgresql")
    log.append(made("g", "0"))
    with transaction.atomic(using="postgresql"):
        log.stage(made("g", "open"))
        (placed,) = run_in_thread(lambda: log.append(made("g", "1")))
        assert placed.offset == 2
    assert offsets(log.number()) == [3]


def test_pruning_by_age_never_makes_a_gap_in_what_is_left(database_log: DatabaseEventLog) -> None:
    """A row is dated when it is staged and placed when its transaction has committed."""
    with hours_ago(3), transaction.atomic(using=database_log.alias):
        database_log.stage(made("g", "staged early"))
    StoredEvent.objects.using(database_log.alias).update(group="waiting")  # out of the way
    log = database_log
    log.append(made("g", "1"))
    StoredEvent.objects.using(log.alias).filter(group="waiting").update(group="g")
    log.number()
    log.append(made("g", "3"))
    assert texts(log.since("g", START, 10)) == ["1", "staged early", "3"]
    with override_settings(SSE_APP={"RETENTION_SECONDS": 3600}):
        log.prune()
    left = log.since("g", log.earliest("g"), 10)
    first = left[0].offset or 0
    assert offsets(left) == list(range(first, first + len(left)))
    assert texts(left)[-1] == "3"


def test_pruning_leaves_what_still_waits_for_its_number(database_log: DatabaseEventLog) -> None:
    with hours_ago(3), transaction.atomic(using=database_log.alias):
        database_log.stage(made("g", "waiting"))
    with override_settings(SSE_APP={"RETENTION_SECONDS": 3600}):
        assert database_log.prune() == 0
    assert texts(database_log.number()) == ["waiting"]


def test_reading_leaves_no_transaction_open(database_log: DatabaseEventLog) -> None:
    database_log.append(made("g", "1"))
    database_log.since("g", START, 10)
    assert not connections[database_log.alias].in_atomic_block
    assert connections[database_log.alias].get_autocommit()


def test_the_watch_on_sqlite_notices_the_commits_of_another_connection() -> None:
    log = DatabaseEventLog("default")
    changed = threading.Event()
    stop = log.watch(changed.set)
    assert stop is not None
    try:
        assert changed.wait(PATIENCE)  # its first look
        for n in range(3):
            changed.clear()
            run_in_thread(lambda n=n: log.append(made("g", str(n))))
            assert changed.wait(PATIENCE)
    finally:
        stop()


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_the_watch_on_sqlite_follows_the_name_of_the_file(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, backup = tmp_path / "db.sqlite3", tmp_path / "backup.sqlite3"
    for path in (file, backup):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE t (n)")
    changed = threading.Event()
    stop = watch_file(file, changed.set)
    try:
        assert changed.wait(PATIENCE)
        if how == "deleted":
            file.unlink()
            eventually(lambda: "can't be noticed" in caplog.text)
            assert not file.exists()
        changed.clear()
        backup.rename(file)
        assert changed.wait(PATIENCE)
        for n in range(3):
            changed.clear()
            with closing(sqlite3.connect(file)) as connection, connection:
                connection.execute("INSERT INTO t VALUES (?)", [n])
            assert changed.wait(PATIENCE)
    finally:
        stop()
    assert caplog.text.count("can't be noticed") == (how == "deleted")


def test_what_cannot_be_watched_says_so() -> None:
    assert DatabaseEventLog("postgresql").watch(lambda: None) is None
    assert MemoryEventLog().watch(lambda: None) is None


# --- making one from the setting ---


def test_a_log_that_cannot_join_a_transaction_says_so() -> None:
    assert MemoryEventLog().alias is None
    with pytest.raises(NotImplementedError, match="MemoryEventLog"):
        MemoryEventLog().stage(made("g", "1"))
    assert MemoryEventLog().number() == []


def test_a_log_is_made_from_a_path_or_from_a_dict_with_options() -> None:
    made_log = make_event_log("sse_app.eventlog.DatabaseEventLog")
    assert isinstance(made_log, DatabaseEventLog)
    assert made_log.alias == "default"
    other = {"BACKEND": "sse_app.eventlog.DatabaseEventLog", "ALIAS": "postgresql"}
    assert make_event_log(other).alias == "postgresql"


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("nowhere.Log", "nowhere.Log"),
        ("sse_app.eventlog.Missing", "sse_app.eventlog.Missing"),
        ("sse_app.protocol.events.Event", "sse_app.protocol.events.Event"),
        ("plain", "plain"),
        ({}, "''"),
        ({"BACKEND": "sse_app.eventlog.MemoryEventLog", "ALIAS": "x"}, "alias"),
        (None, "None"),
        (5, "5"),
    ],
)
def test_a_setting_that_makes_no_log_is_named(setting: Any, named: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="EVENT_LOG") as caught:
        make_event_log(setting)
    assert named in str(caught.value)


def test_the_log_in_force_follows_the_setting() -> None:
    before = event_log()
    with override_settings(SSE_APP={"EVENT_LOG": "sse_app.eventlog.MemoryEventLog"}):
        assert isinstance(event_log(), MemoryEventLog)
        assert event_log() is event_log()
    assert type(event_log()) is type(before)


def impatiently(work: Callable[[], Any]) -> Any:
    """Fail where PostgreSQL would have to wait for a lock that this very test holds."""
    with connections["postgresql"].cursor() as cursor:
        cursor.execute("SET lock_timeout = '2s'")
    return work()


def test_pruning_neither_waits_for_a_publisher_nor_takes_its_head() -> None:
    log = DatabaseEventLog("postgresql")
    with hours_ago(3):
        log.append([*made("a", "1"), *made("b", "1")])
    with override_settings(SSE_APP={"RETENTION_SECONDS": 3600}):
        with transaction.atomic(using="postgresql"):
            (mine,) = log.append(made("a", "2"))  # its head is locked until the commit
            assert run_in_thread(lambda: impatiently(log.prune)) == 2
        assert log.heads(["a", "b"]) == {"a": mine.position, "b": START}
        assert log.since("a", Position(mine.epoch or "", 1), 10) == [mine]


def test_pruning_keeps_the_head_of_a_group_in_which_an_event_waits(
    database_log: DatabaseEventLog,
) -> None:
    with hours_ago(3):
        (first,) = database_log.append(made("g", "1"))
        with transaction.atomic(using=database_log.alias):
            database_log.stage(made("g", "2"))
    with override_settings(SSE_APP={"RETENTION_SECONDS": 3600}):
        database_log.prune()
    (second,) = database_log.number()
    assert (second.epoch, second.offset) == (first.epoch, 2)


def test_a_pass_that_the_database_gave_up_is_done_again(
    database_log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction.atomic(using=database_log.alias):
        database_log.stage(made("g", "1"))
    errors = [OperationalError("database is locked")]
    real = Tables.lock

    def give_up_once(*args: Any) -> Any:
        if errors:
            raise errors.pop()
        return real(*args)

    monkeypatch.setattr(Tables, "lock", give_up_once)
    assert texts(database_log.number()) == ["1"]
    errors.append(OperationalError("database is locked"))
    # Not within somebody's transaction, which is given up as a whole.
    with transaction.atomic(using=database_log.alias):
        database_log.stage(made("g", "2"))
        with pytest.raises(OperationalError):
            database_log.number()


def test_an_append_to_many_groups_takes_as_many_statements_as_one(
    database_log: DatabaseEventLog,
) -> None:
    def statements(events: list[Event]) -> int:
        with CaptureQueriesContext(connections[database_log.alias]) as queries:
            database_log.append(events)
        return len(queries)

    many = [event for n in range(50) for event in made(f"g{n}", "1", "2")]
    assert statements(made("g", "1")) == statements(many)


def test_pruning_many_groups_takes_as_many_statements_as_one(
    database_log: DatabaseEventLog,
) -> None:
    def statements(groups: int) -> int:
        with hours_ago(3):
            database_log.append(
                [e for n in range(groups) for e in made(f"old.{groups}.{n}", "1", "2")]
            )
        many = [f"many.{groups}.{n}" for n in range(groups)]
        database_log.append([event for group in many for event in made(group, *"12345")])
        with CaptureQueriesContext(connections[database_log.alias]) as queries:
            assert database_log.prune() == groups * (2 + 2)
        return len(queries)

    with override_settings(SSE_APP={"RETENTION_SECONDS": 3600, "RETENTION_EVENTS": 3}):
        assert statements(1) == statements(30)


@pytest.mark.parametrize("alias", ["default", "postgresql"])
def test_every_statement_of_the_log_can_be_recorded_by_a_package(alias: str) -> None:
    """Recorders of SQL take `executemany()` for one statement with a list of lists."""
    log, many = DatabaseEventLog(alias), list[str]()

    def record(execute: Any, sql: str, params: Any, several: bool, context: Any) -> Any:
        if several:
            many.append(sql)
        return execute(sql, params, several, context)

    groups = [f"recorded.{n}" for n in range(3)]
    with connections[alias].execute_wrapper(record), hours_ago(3):
        with transaction.atomic(using=alias):
            log.stage([event for group in groups for event in made(group, "1", "2")])
            numbered = log.number(groups)
        assert [(e.data, e.offset) for e in log.since(groups[2], START, 9)] == [("1", 1), ("2", 2)]
        epochs = {head.epoch for head in log.heads(groups).values()}
        assert log.renew_epoch(groups) == 3
    brief = override_settings(SSE_APP={"RETENTION_SECONDS": 3600})
    with connections[alias].execute_wrapper(record), brief:
        assert log.prune() == len(numbered) == 6
    assert epochs.isdisjoint({head.epoch for head in log.heads(groups).values()})
    assert many == []


@pytest.mark.parametrize("staged", [True, False])
def test_a_database_without_the_tables_is_named_with_the_line_that_a_migration_needs(
    database_log: DatabaseEventLog, staged: bool
) -> None:
    last = MigrationLoader(None).graph.leaf_nodes("sse_app")[0]
    said = rf"database '{database_log.alias}' does not have.*{re.escape(repr(last))}"
    for change in ("RENAME TO away", "RENAME COLUMN marks TO away"):
        with (
            suppress(ZeroDivisionError),
            transaction.atomic(using=database_log.alias),
            connections[database_log.alias].cursor() as cursor,
        ):
            cursor.execute(f"ALTER TABLE sse_app_storedevent {change}")
            with pytest.raises(ProgrammingError, match=said):
                (database_log.stage if staged else database_log.append)(made("g", "1"))
            raise ZeroDivisionError


def test_a_call_may_have_more_groups_than_a_statement_has_parameters() -> None:
    """SQLite takes 32,766, and PostgreSQL 65,535; here it is fewer, so that the test is short."""
    log = DatabaseEventLog("default")
    connection = connections["default"]
    connection.ensure_connection()
    before = connection.connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 6500)
    groups = [f"g{n}" for n in range(7000)]
    try:
        stored = log.append([event for group in groups for event in made(group, "1")])
        assert log.heads(groups) == {e.group: e.position for e in stored}
        with transaction.atomic():
            log.stage([event for group in groups for event in made(group, "2")])
        assert log.delayed(groups).keys() == {*groups}
        assert [event.offset for event in log.number(groups)] == [2] * 7000
        assert log.renew_epoch(groups) == 7000
        with override_settings(SSE_APP={"RETENTION_EVENTS": 1}):
            assert log.prune(700) == 700
    finally:
        connection.connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, before)
