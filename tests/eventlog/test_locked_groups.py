"""A session of PostgreSQL that stops while it has a group's head locked: others do not wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from django.db import OperationalError, connections, transaction
from django.test import override_settings

from sse_app import Event, cursor, publish, publish_many
from sse_app.eventlog import DatabaseEventLog, database, event_log
from sse_app.models import GroupHead, StoredEvent
from sse_app.protocol.cursors import START
from sse_app.runtime import rare_logs

from ..support.patience import PATIENCE
from ..support.servers import Daphne, connect_postgresql, eventually

HEADS, EVENTS = GroupHead._meta.db_table, StoredEvent._meta.db_table
LOCK = f'UPDATE {HEADS} SET "offset" = "offset" WHERE "group" = \'frozen\''
INSERT = f"""INSERT INTO {HEADS} ("group", "epoch", "offset", "changed_at", "mark", "marked",
    "previous") VALUES ('frozen', 'e', 0, now(), '', 0, '')"""
SETTING = {"EVENT_LOG": {"BACKEND": "sse_app.eventlog.DatabaseEventLog", "ALIAS": "postgresql"}}

on_postgresql = pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])


@contextmanager
def frozen(name: str, *statements: str) -> Iterator[psycopg.Connection]:
    """A session that has run `statements` in a transaction, and does nothing more."""
    with connect_postgresql(name) as session:
        session.autocommit = False
        for statement in statements:
            session.execute(statement)
        yield session


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[DatabaseEventLog]:
    """The log in PostgreSQL, which waits shortly. Publishes to "frozen" and "a" have begun it."""
    monkeypatch.setattr(database, "APPEND_SECONDS", 0.3)
    monkeypatch.setattr(database, "NUMBER_SECONDS", 0.3)
    rare_logs.forget()
    with override_settings(SSE_APP=SETTING):
        publish_many([("frozen", "n", "first"), ("a", "n", "first")])
        found = event_log()
        assert isinstance(found, DatabaseEventLog)
        yield found


@pytest.fixture
def name() -> str:
    return str(connections["postgresql"].settings_dict["NAME"])


def texts(log: DatabaseEventLog, group: str) -> list[str]:
    return [event.data for event in log.since(group, START, 100)]


@on_postgresql
def test_events_of_other_groups_leave_while_one_head_is_locked(
    log: DatabaseEventLog, name: str, seen: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    with frozen(name, LOCK) as session, caplog.at_level(logging.WARNING, "sse_app"):
        logging.getLogger("sse_app").addHandler(caplog.handler)
        publish("a", "n", "alone")
        with transaction.atomic(using="postgresql"):
            publish_many([("frozen", "n", "waits"), ("a", "n", "together"), ("new", "n", "too")])
        assert [event.data for event in seen if event.group != "frozen"] == [
            "alone",
            "together",
            "too",
        ]
        assert texts(log, "a") == ["first", "alone", "together"]
        assert log.delay() > 0
        assert list(log.delayed()) == ["frozen"]
        (told,) = (one for one in caplog.records if "heads of these groups" in one.message)
        assert told.sse_groups == ["frozen"]  # type: ignore[attr-defined]
        cursor("frozen", "a")  # The page's position does not wait either.
        assert len([one for one in caplog.records if "heads of" in one.message]) == 1
        logging.getLogger("sse_app").removeHandler(caplog.handler)
        session.rollback()
    assert [event.data for event in log.number()] == ["waits"]
    assert log.delay() == 0.0
    assert texts(log, "frozen") == ["first", "waits"]


@on_postgresql
@pytest.mark.parametrize("exists", [True, False], ids=["a head", "a new head"])
def test_a_sweep_that_meets_a_locked_group_numbers_all_others(
    log: DatabaseEventLog, name: str, exists: bool
) -> None:
    if not exists:
        for model in (GroupHead, StoredEvent):
            model.objects.using("postgresql").filter(group="frozen").delete()
    groups = ["a", "frozen", *(f"new.{n}" for n in range(5)), "z"]

    def stage(*groups: str) -> None:
        with transaction.atomic(using="postgresql"):
            log.stage([Event.of(group, "n", "staged") for group in groups])

    stage(*groups)
    with frozen(name, LOCK if exists else INSERT) as session:
        assert sorted(event.group for event in log.number()) == sorted({*groups} - {"frozen"})
        stage("a")
        assert [event.group for event in log.number()] == ["a"]
        session.rollback()
    assert [event.group for event in log.number()] == ["frozen"]


@on_postgresql
def test_publishing_to_a_locked_group_fails_soon_and_names_it(
    log: DatabaseEventLog, name: str, seen: list[Event]
) -> None:
    with frozen(name, LOCK) as session:
        for seconds in ("0.3 s", "0.2 s"):  # The second publisher knows, and waits shorter.
            with pytest.raises(OperationalError, match=f"for {seconds}.* the head of frozen. A"):
                publish_many([("a", "n", "never"), ("frozen", "n", "never")])
        publish("a", "n", "x")
        session.rollback()
    publish("frozen", "n", "y")
    assert texts(log, "a") == ["first", "x"]
    assert texts(log, "frozen") == ["first", "y"]
    assert [event.data for event in seen] == ["x", "y"]


@on_postgresql
def test_in_a_transaction_of_the_caller_its_own_lock_timeout_counts(log: DatabaseEventLog) -> None:
    with transaction.atomic(using="postgresql"), connections["postgresql"].cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '7s'")
        log.append([Event.of("a", "n", "x")])
        log.renew_epoch(["a"])
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("7s",)


@on_postgresql
def test_pruning_goes_on_beside_a_locked_group(log: DatabaseEventLog, name: str) -> None:
    publish_many([(group, "n", str(n)) for group in ("a", "frozen", "z") for n in range(9)])
    lock = f"SELECT 1 FROM {EVENTS} WHERE \"group\" = 'frozen' FOR UPDATE"
    with frozen(name, LOCK, lock), override_settings(SSE_APP={**SETTING, "RETENTION_EVENTS": 2}):
        log.prune()
        kept = (
            StoredEvent.objects.using("postgresql")
            .order_by("group", "offset")
            .values_list("group", "data")
        )
        left = [(group, bytes(data).decode()) for group, data in kept if group != "frozen"]
    assert left == [("a", "7"), ("a", "8"), ("z", "7"), ("z", "8")]


@on_postgresql
def test_a_new_epoch_for_a_locked_group_is_refused_soon(log: DatabaseEventLog, name: str) -> None:
    with frozen(name, LOCK):
        with pytest.raises(OperationalError, match="lock timeout"):
            log.renew_epoch(["frozen"])
        assert log.renew_epoch(["a"]) == 1


@pytest.mark.slow
async def test_streams_of_other_groups_open_and_live_beside_a_locked_group(
    make_daphne: Callable[..., Daphne], database: str
) -> None:
    here, there = (
        make_daphne({"TEST_POSTGRES_NAME": database}, SWEEP_INTERVAL=0.1) for _ in range(2)
    )
    await asyncio.to_thread(here.publish, "orders", "n", "first")
    lock = LOCK.replace("frozen", "orders")
    stage = (
        "from django.db import transaction\nfrom sse_app import publish\n"
        "with transaction.atomic():\n    publish('orders', 'n', 'waits')"
    )
    async with here.stream("group=orders") as waiting:
        await waiting.next()
        with frozen(database, lock) as session:
            await asyncio.to_thread(there.shell, stage)

            def told() -> Any:
                answer = httpx.get(f"{here.url}/events/health/", timeout=PATIENCE)
                return answer.json() if "delay" in answer.json() else None

            found = await asyncio.to_thread(eventually, told)
            assert (found["ready"], found["delay"] > 0) == (True, True)
            async with here.stream("group=chat.a") as one, there.stream("group=chat.a") as two:
                for stream in (one, two):
                    assert (await stream.next()).name == "sse.open"
                await asyncio.to_thread(there.publish, "chat.a", "n", "beside")
                for stream in (one, two):
                    assert (await stream.next()).data == "beside"
            async with there.stream("group=orders&from=earliest") as late:
                _, old = await late.take(2)
                assert old.data == "first"
            session.rollback()
        assert (await waiting.next()).data == "waits"
