"""What leaves with which transaction: views in one, tests in one, several databases, processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import Any
from unittest import mock

import psycopg
import pytest
from django.contrib.auth.models import Group, User
from django.db import OperationalError, connections, transaction
from django.test import Client, TestCase, override_settings
from django.test.utils import CaptureQueriesContext

from sse_app import Event, cursor, publish, publish_many
from sse_app.eventlog import DatabaseEventLog, event_log
from sse_app.eventlog.database_rows import Tables
from sse_app.models import GroupHead, StoredEvent
from sse_app.protocol.cursors import encode_cursor
from sse_app.testing import capture_events

from ..support.patience import PATIENCE
from ..support.servers import Daphne, connect_postgresql, eventually

POSTGRESQL = {"EVENT_LOG": {"BACKEND": "sse_app.eventlog.DatabaseEventLog", "ALIAS": "postgresql"}}


# --- a view in a transaction ---


@pytest.fixture
def atomic_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("atomic_requests")
@pytest.mark.parametrize("fails", [False, True])
def test_with_atomic_requests_an_event_leaves_only_if_the_view_succeeds(
    seen: list[Event], fails: bool
) -> None:
    client = Client(raise_request_exception=False)
    form = {"group": "orders", "event": "n", "data": "x"}
    if fails:
        form["fail"] = "1"
    answer = client.post("/test/publish/", form)
    assert answer.status_code == (500 if fails else 200)
    assert [event.data for event in seen] == ([] if fails else ["x"])
    assert StoredEvent.objects.count() == (0 if fails else 1)


class InATestCase(TestCase):
    """Django's own test case, whose transaction never commits."""

    def test_what_is_published_is_captured_with_its_place(self) -> None:
        with capture_events() as events:
            publish("g", "n", "1")
            publish("g", "n", "2")
        assert [(e.data, e.offset) for e in events] == [("1", 1), ("2", 2)]
        assert cursor("g") == encode_cursor(event_log().heads(["g"]), 0)

    def test_nothing_is_left_of_the_test_before(self) -> None:
        assert not StoredEvent.objects.exists()

    def test_what_is_rolled_back_is_not_captured(self) -> None:
        with capture_events() as events:
            with transaction.atomic():
                publish("g", "n", "never")
                transaction.set_rollback(True)
            publish("g", "n", "after")
        assert [event.data for event in events] == ["after"]


@override_settings(SSE_APP=POSTGRESQL)
class InATestCaseWithALogOfItsOwn(TestCase):
    """Two databases, and the transaction of neither commits."""

    databases = ("default", "postgresql")

    def test_what_is_published_is_captured_with_its_place(self) -> None:
        with capture_events() as events:
            publish("g", "n", "1")
        assert [(event.data, event.offset) for event in events] == [("1", 1)]


# --- a log in a database of its own ---


@pytest.fixture
def own_database() -> Any:
    with override_settings(SSE_APP=POSTGRESQL):
        yield


both = pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])


@both
@pytest.mark.usefixtures("own_database")
def test_a_log_of_its_own_waits_for_the_default_database(seen: list[Event]) -> None:
    with transaction.atomic():
        publish("g", "n", "1")
        assert seen == []
        assert not StoredEvent.objects.using("postgresql").exists()
    with transaction.atomic():
        publish("g", "n", "never")
        transaction.set_rollback(True)
    publish("g", "n", "2")
    assert [(event.data, event.offset) for event in seen] == [("1", 1), ("2", 2)]


@both
@pytest.mark.usefixtures("own_database")
def test_a_log_of_its_own_still_joins_the_transaction_of_its_database(seen: list[Event]) -> None:
    with transaction.atomic(using="postgresql"):
        publish("g", "n", "never")
        transaction.set_rollback(True, using="postgresql")
    with transaction.atomic(using="postgresql"):
        publish("g", "n", "1")
        assert seen == []
        assert StoredEvent.objects.using("postgresql").count() == 1
    assert [event.data for event in seen] == ["1"]


@both
@pytest.mark.usefixtures("own_database")
def test_with_both_in_a_transaction_an_event_leaves_only_if_both_commit(seen: list[Event]) -> None:
    with transaction.atomic(using="postgresql"):
        with transaction.atomic():
            publish("g", "n", "1")
        assert seen == []
        with transaction.atomic():
            publish("g", "n", "never")
            transaction.set_rollback(True)
    assert [event.data for event in seen] == ["1"]
    with transaction.atomic(using="postgresql"):
        with transaction.atomic():
            publish("g", "n", "never")
        transaction.set_rollback(True, using="postgresql")
    assert [event.data for event in seen] == ["1"]


# --- an error of the log within the caller's transaction ---


@pytest.fixture(params=[False, True], ids=["client binding", "server binding"])
def binding(request: pytest.FixtureRequest, own_database: None) -> Iterator[None]:
    """Both ways in which Django's connections to PostgreSQL send parameters."""
    connection = connections["postgresql"]
    connection.close()
    with mock.patch.dict(connection.settings_dict["OPTIONS"], server_side_binding=request.param):
        yield
        connection.close()


@contextmanager
def impatient_beside_a_migration() -> Iterator[psycopg.Connection]:
    """A transaction that waits shortly, while another one has locked the log's table."""
    connection = connections["postgresql"]
    with connect_postgresql(connection.settings_dict["NAME"]) as migration:
        migration.autocommit = False
        migration.execute(f"LOCK TABLE {StoredEvent._meta.db_table} IN ACCESS EXCLUSIVE MODE")
        with transaction.atomic(using="postgresql"):
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '50ms'")
            yield migration


@both
@pytest.mark.usefixtures("binding")
@pytest.mark.parametrize("count", [1, 1200])
def test_after_an_error_of_the_log_the_callers_transaction_goes_on(
    seen: list[Event], count: int
) -> None:
    groups = Group.objects.using("postgresql")
    with impatient_beside_a_migration() as migration:
        groups.create(name="before")
        with pytest.raises(OperationalError, match="lock timeout"):
            publish_many([("g", "n", str(n)) for n in range(count)])
        groups.create(name="after")
        migration.rollback()
        publish("g", "n", "x")
    assert sorted(groups.values_list("name", flat=True)) == ["after", "before"]
    assert [event.data for event in seen] == ["x"]


@both
@pytest.mark.usefixtures("binding")
def test_a_user_is_saved_although_the_log_fails() -> None:
    """Other processes find the changed rights in their next round."""
    users = User.objects.using("postgresql")
    ann = users.create(username="ann")
    ann.is_active = False
    with impatient_beside_a_migration():
        ann.save(using="postgresql")
    assert not users.get(username="ann").is_active


@pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])
@pytest.mark.parametrize("alias", ["default", "postgresql"])
def test_an_event_in_a_transaction_takes_one_round_trip(alias: str) -> None:
    """On PostgreSQL the savepoint is made and released by the same."""
    with (
        override_settings(SSE_APP=POSTGRESQL if alias == "postgresql" else {}),
        transaction.atomic(using=alias),
        CaptureQueriesContext(connections[alias]) as queries,
    ):
        publish("g", "n", "1")
        publish_many([("g", "n", str(n)) for n in range(100)])
    assert len(queries) == 2


@pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])
@pytest.mark.parametrize(("alias", "statements"), [("postgresql", 2), ("default", 8)])
def test_a_hundred_publishes_of_a_transaction_are_numbered_together(
    alias: str, statements: int, seen: list[Event]
) -> None:
    """The statements after the last publish: the COMMIT, and those of one numbering."""

    def count(publishes: int) -> int:
        seen.clear()
        with CaptureQueriesContext(connections[alias]) as queries:
            with transaction.atomic(using=alias):
                for n in range(publishes):
                    with transaction.atomic(using=alias):  # as a save that publishes has
                        publish(f"g{n % 3}", "n", str(n))
                with suppress(ZeroDivisionError), transaction.atomic(using=alias):
                    publish("gone", "n", "")
                    raise ZeroDivisionError
                before = len(queries)
            found = len(queries) - before
        assert [int(e.data) for e in sorted(seen, key=lambda e: int(e.data))] == [*range(publishes)]
        for group in {event.group for event in seen}:
            of_group = [event for event in seen if event.group == group]
            assert [int(event.data) for event in of_group] == [*range(int(group[1:]), publishes, 3)]
            links = list(pairwise(of_group))
            assert all(two.offset == (one.offset or 0) + 1 for one, two in links)
            assert all(two.previous == one.mark != "" for one, two in links)
        return found

    with override_settings(SSE_APP=POSTGRESQL if alias == "postgresql" else {}):
        assert (count(1), count(100)) == (statements, statements)
        assert event_log().heads(["gone"])["gone"].is_start


@pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])
def test_an_event_that_a_numbering_did_not_see_is_not_numbered_without_its_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only a locked head keeps two sessions from giving the same offset."""
    log = DatabaseEventLog("postgresql")
    log.append([Event.of("late", "n", "first")])  # So that it has a head.
    with transaction.atomic(using="postgresql"):
        log.stage([Event.of("a", "n", "seen")])
    with connect_postgresql(str(connections["postgresql"].settings_dict["NAME"])) as session:
        late = (
            f'INSERT INTO {StoredEvent._meta.db_table} ("group", "name", "data", "created_at") '
            "VALUES ('late', 'n', '', now())"
        )
        run = Tables.last_rows

        def slowly(self: Tables, sql: str, values: Any) -> Any:
            # Between the two statements another session commits an event of one more group.
            lock, number = sql.split(";\n")
            place = lock.count("%s")
            with transaction.atomic(using="postgresql"), self.connection.cursor() as cursor:
                cursor.execute(lock, values[:place])
                session.execute(late)
                session.commit()
                return run(self, number, values[place:])

        monkeypatch.setattr(Tables, "last_rows", slowly)
        assert [event.group for event in log.number(["a", "late"])] == ["a"]
    monkeypatch.undo()
    assert [event.group for event in log.number()] == ["late"]


# --- many publishers ---

TEN_THREADS = """
import threading
from django.db import connections, transaction
from sse_app import publish

def run(thread):
    for n in range({events}):
        if n % 2:
            publish("orders", "n", f"{name} {{thread}} {{n}}")
        else:
            with transaction.atomic():
                publish("orders", "n", f"{name} {{thread}} {{n}}")
    connections.close_all()

threads = [threading.Thread(target=run, args=[thread]) for thread in range(10)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
async def test_two_processes_of_ten_threads_leave_one_order_for_all(
    make_daphne: Callable[..., Daphne], request: pytest.FixtureRequest, valkey: str, kind: str
) -> None:
    environment = {"REDIS_URL": valkey}
    if kind == "postgresql":
        environment["TEST_POSTGRES_NAME"] = request.getfixturevalue("database")
    events, names = 10, ("one", "two")
    servers = [make_daphne(environment), make_daphne(environment)]
    async with (
        servers[0].stream("group=orders") as first,
        servers[0].stream("group=orders") as second,
        servers[1].stream("group=orders") as third,
    ):
        streams = (first, second, third)
        for stream in streams:
            await stream.next()
        code = [TEN_THREADS.format(name=name, events=events) for name in names]
        runs = [asyncio.to_thread(server.shell, c) for server, c in zip(servers, code, strict=True)]
        count = len(names) * 10 * events
        _, _, *received = await asyncio.gather(*runs, *(stream.take(count) for stream in streams))
    offsets = [int(event.id.rsplit("-", 1)[1][:-4]) for event in received[0]]
    assert offsets == list(range(1, count + 1))
    told = [[event.data for event in stream] for stream in received]
    assert told[0] == told[1] == told[2]
    for name in names:
        for thread in range(10):
            mine = [data for data in told[0] if data.startswith(f"{name} {thread} ")]
            assert mine == [f"{name} {thread} {n}" for n in range(events)]


# --- the order in which heads are locked ---


def appended(log: DatabaseEventLog) -> None:
    log.append([Event.of(group, "n", "x") for group in ("a", "B")])


def numbered(log: DatabaseEventLog) -> None:
    log.number(["a", "B"])


def appended_after_staged(log: DatabaseEventLog) -> None:
    """By a pass, which numbers the staged events too."""
    appended(log)


def renewed(log: DatabaseEventLog) -> None:
    log.renew_epoch()


@both
@pytest.mark.parametrize("work", [appended, appended_after_staged, numbered, renewed])
def test_heads_are_locked_in_the_order_of_bytes(work: Callable[[DatabaseEventLog], None]) -> None:
    """The first to be locked is "B": while it waits, "a" is not locked yet."""
    log = DatabaseEventLog("postgresql")
    appended(log)
    with transaction.atomic(using="postgresql"):
        log.stage([Event.of(group, "n", "staged") for group in ("a", "B")])
    if work is appended:
        log.number()
    heads = GroupHead.objects.using("postgresql")
    with ThreadPoolExecutor() as executor:
        with transaction.atomic(using="postgresql"):
            heads.select_for_update().get(group="B")
            waiting = executor.submit(in_own_connection, partial(work, log))
            eventually(lambda: waits_for_a_lock("postgresql"), "nobody waits")
            heads.select_for_update(nowait=True).get(group="a")
        waiting.result(PATIENCE)


@both
@pytest.mark.parametrize("work", [appended, renewed])
def test_a_database_that_sorts_heads_sorts_them_by_bytes(
    work: Callable[[DatabaseEventLog], None],
) -> None:
    """Its own collation may be ICU's, where "a" is before "B": two publishers would deadlock."""
    with CaptureQueriesContext(connections["postgresql"]) as queries:
        work(DatabaseEventLog("postgresql"))
    (orders,) = (
        query["sql"].partition("ORDER BY ")[2] for query in queries if "ORDER" in query["sql"]
    )
    assert 'COLLATE "C"' in orders.split(" ASC")[0].split("\n")[0]


def in_own_connection(work: Callable[[], None]) -> None:
    try:
        work()
    finally:
        connections.close_all()


def waits_for_a_lock(alias: str) -> bool:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])
