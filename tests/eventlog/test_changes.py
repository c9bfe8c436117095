"""Which heads changed since a moment: all that did, and few others."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
import redis
from django.db import connections, transaction
from django.utils import timezone

from sse_app.eventlog import (
    DatabaseEventLog,
    EventLog,
    MemoryEventLog,
    RedisEventLog,
    contract,
    redis_changes,
)
from sse_app.eventlog.contract import Changes
from sse_app.models import GroupHead
from sse_app.protocol.cursors import Position
from sse_app.protocol.events import Event

from ..support.patience import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])

GROUPS = {f"g{n}" for n in range(30)}


@pytest.fixture(params=["memory", "sqlite", "postgresql", "redis", "cluster"])
def log(request: pytest.FixtureRequest) -> EventLog:
    """Each log in turn, with the groups, which changed an hour ago where the log has times."""
    kind = request.param
    if kind == "memory":
        log: EventLog = MemoryEventLog()
    elif kind in ("redis", "cluster"):
        url = request.getfixturevalue("valkey" if kind == "redis" else "valkey_cluster")
        log = RedisEventLog(url, prefix=f"test.{uuid.uuid4().hex}", cluster=kind == "cluster")
    else:
        log = DatabaseEventLog("default" if kind == "sqlite" else "postgresql")
    append(log, *GROUPS)
    if log.alias is not None:
        heads = GroupHead.objects.using(log.alias)
        heads.update(changed_at=timezone.now() - timedelta(hours=1))
    return log


def are(found: Changes, expected: dict[str, Position], log: EventLog) -> bool:
    """Return whether these heads were found; on PostgreSQL also those of the last seconds."""
    heads = found.heads
    assert heads is not None
    if log.alias != "postgresql":
        return heads == expected
    assert len(heads) < 10 + len(expected), "also heads that changed an hour ago"
    return heads.items() >= expected.items()


def append(log: EventLog, *groups: str) -> dict[str, Position]:
    """Append an event to each of `groups`; return their heads."""
    events = log.append([Event.of(group, "n", "x") for group in groups])
    return {event.group: event.position for event in events if event.position}


def in_thread(work: Callable[[], Any]) -> Any:
    def run() -> Any:
        try:
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(run).result(PATIENCE)


def test_the_answer_has_the_heads_that_changed_and_those_asked_for(log: EventLog) -> None:
    first = log.changes(None, GROUPS)
    assert first.heads is None
    none = log.changes(first.since, GROUPS)
    assert are(none, {}, log)
    changed = append(log, "g1", "g2", "of.nobody")
    changed |= append(log, "g1")
    idle = log.heads(["g3", "empty"])
    del changed["of.nobody"]
    found = log.changes(none.since, GROUPS, ["g3", "empty"])
    assert are(found, changed | idle, log)
    assert are(log.changes(found.since, GROUPS), {}, log)


async def test_the_async_twin_gives_the_same_answer(log: EventLog) -> None:
    first = await log.achanges(None, GROUPS)
    assert first.heads is None
    (stored,) = await log.aappend([Event.of("g4", "n", "x")])
    found = await log.achanges(first.since, GROUPS, ["g3", "empty"])
    assert stored.position is not None
    assert are(found, {"g4": stored.position, **await log.aheads(["g3", "empty"])}, log)


def test_a_new_epoch_is_a_change(log: EventLog) -> None:
    since = log.changes(None, GROUPS).since
    log.renew_epoch(["g5"])
    assert are(log.changes(since, GROUPS), log.heads(["g5"]), log)
    since = log.changes(since, GROUPS).since
    log.renew_epoch()
    assert are(log.changes(since, GROUPS), log.heads(GROUPS), log)


def test_every_group_is_found_on_whatever_node_it_is(log: EventLog) -> None:
    groups = {f"many.{n}" for n in range(400)}
    since = log.changes(None, groups).since
    heads = {head: position for g in groups for head, position in append(log, g).items()}
    found = log.changes(since, groups)
    assert found.heads == heads
    log.renew_epoch(groups)
    assert log.changes(found.since, groups).heads == log.heads(groups)


def test_more_changes_than_groups_are_not_read(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "MOST_CHANGES", 3)
    since = log.changes(None, GROUPS).since
    for _ in range(2 * redis_changes.STREAMS):  # on a cluster, more in at least one stream
        append(log, *sorted(GROUPS))
    found = log.changes(since, {"g1"}, ["g2"])
    assert found.heads is None
    if log.alias != "postgresql":  # There they are new for some seconds.
        assert log.changes(found.since, {"g1"}, ["g2"]).heads == log.heads(["g2"])


async def test_a_change_is_found_on_a_cluster_whose_stream_of_changes_is_on_another_node(
    valkey_cluster: str,
) -> None:
    log = RedisEventLog(valkey_cluster, prefix=f"test.{uuid.uuid4().hex}", cluster=True)
    with closing(redis.RedisCluster.from_url(valkey_cluster)) as client:
        elsewhere = [
            group
            for group in (f"g{n}" for n in range(5000))
            if client.get_node_from_key(log._keys(group)[0])
            != client.get_node_from_key(log._changes.key(group))
        ]
    group = elsewhere[0]
    found = log.changes(None, {group})
    heads = append(log, group)
    found = await log.achanges(found.since, {group})
    assert found.heads == heads
    (event,) = await log.aappend([Event.of(group, "n", "x")])
    found = await log.achanges(found.since, {group})
    assert found.heads == {group: event.position}
    since = found.since
    log.renew_epoch([group])
    assert log.changes(since, {group}).heads == log.heads([group])


# --- signs that a log went back ---


@pytest.mark.parametrize("log", ["redis"], indirect=True)
def test_a_stream_of_changes_that_lost_its_last_entry_shows_that_the_log_went_back(
    log: RedisEventLog, valkey: str
) -> None:
    since = log.changes(None, GROUPS).since
    with closing(redis.Redis.from_url(valkey)) as client:
        (last, _), *_ = client.xrevrange(log._changes.key(""), count=1)  # type: ignore[misc, union-attr]
        client.xdel(log._changes.key(""), last)
        append(log, "g1")
        found = log.changes(since, GROUPS)
        assert found.heads is None
        client.delete(log._changes.key(""))
    found = log.changes(found.since, GROUPS)
    assert found.heads is None
    assert log.changes(found.since, GROUPS).heads == {}


@pytest.mark.parametrize("log", ["sqlite", "postgresql"], indirect=True)
def test_an_older_newest_head_shows_that_the_log_went_back(log: DatabaseEventLog) -> None:
    append(log, "newest")
    found = log.changes(None, GROUPS)
    GroupHead.objects.using(log.alias).filter(group="newest").delete()
    found = log.changes(found.since, GROUPS)
    assert found.heads is None
    assert are(log.changes(found.since, GROUPS), {}, log)


# --- late commits ---


def test_a_change_is_found_that_was_committed_after_a_later_one() -> None:
    log = DatabaseEventLog("postgresql")
    append(log, "early", "late")

    def overtake() -> object:
        append(log, "early")
        return log.changes(None, GROUPS).since

    with transaction.atomic(using="postgresql"):
        heads = append(log, "late")
        since = in_thread(overtake)
    assert log.changes(since, {"late"}).heads == heads


def test_the_time_of_a_change_on_postgresql_is_of_the_servers_clock() -> None:
    """A process whose clock is slow is not read later than others."""
    log = DatabaseEventLog("postgresql")
    slow = timezone.now() - timedelta(hours=1)
    for groups in (["new"], ["new", "other"]):
        since = log.changes(None, {"new"}).since
        with mock.patch("django.utils.timezone.now", return_value=slow):
            heads = append(log, *groups)
        assert log.changes(since, groups).heads == heads
    since = log.changes(None, {"new"}).since
    with transaction.atomic(using="postgresql"):
        log.stage([Event.of("new", "n", "x")])
    with mock.patch("django.utils.timezone.now", return_value=slow):
        (event,) = log.number({"new"})
    assert log.changes(since, {"new"}).heads == {"new": event.position}


@pytest.mark.parametrize("mode", [None, "IMMEDIATE"])
def test_the_time_of_a_change_on_sqlite_is_after_the_wait_for_the_other_writers(
    mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, locked = DatabaseEventLog("default"), []
    monkeypatch.setattr(connections["default"], "transaction_mode", mode, raising=False)
    real = timezone.now

    def noted() -> Any:
        def write() -> bool:
            connection = connections["default"]
            connection.ensure_connection()
            try:
                with connection.cursor() as cursor:
                    cursor.execute("PRAGMA busy_timeout = 0")
                    cursor.execute("DELETE FROM sse_app_grouphead WHERE 0")
            except Exception:
                return True
            return False

        locked.append(in_thread(write))
        return real()

    monkeypatch.setattr("django.utils.timezone.now", noted)
    append(log, "g")
    assert locked == [True]
