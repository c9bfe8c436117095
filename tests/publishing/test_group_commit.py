"""Threads that publish at the same moment share one append; none of them fails or waits for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connections
from django.test import override_settings

from sse_app import Event, publish, publish_many
from sse_app.eventlog import DatabaseEventLog, MemoryEventLog, event_log
from sse_app.models import GroupHead, StoredEvent
from sse_app.protocol.cursors import START
from sse_app.publishing import group_commit, outbox

from ..support.patience import PATIENCE
from ..support.servers import connect_postgresql, eventually

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])

HEADS, EVENTS = GroupHead._meta.db_table, StoredEvent._meta.db_table
DATABASES = ["default", "postgresql"]
THREADS = 12


@pytest.fixture
def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The log in the database of the parameter; no caller loses its patience."""
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 10 * PATIENCE)
    alias = getattr(request, "param", "postgresql")
    log = {"BACKEND": "sse_app.eventlog.DatabaseEventLog", "ALIAS": alias}
    with override_settings(SSE_APP={"EVENT_LOG": log}):
        yield event_log()


on_both = pytest.mark.parametrize("log", DATABASES, indirect=True)


class Appends:
    """Counts the appends to a log. The first one waits until `release()`.

    One thread appends at a time, or as many as `at_once` says.
    """

    def __init__(
        self, log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch, at_once: int = 1
    ) -> None:
        self.sizes: list[int] = []
        self._released = threading.Event()
        self._log = log
        monkeypatch.setattr(log, "appends_at_once", lambda: at_once)
        for name in ("append", "append_together"):
            monkeypatch.setattr(log, name, self._counting(getattr(log, name)))

    def _counting(self, append: Callable[..., Any]) -> Callable[..., Any]:
        def counted(given: Sequence[Any]) -> Any:
            self.sizes.append(len(given))
            if len(self.sizes) == 1:
                assert self._released.wait(PATIENCE)
            return append(given)

        return counted

    def hold(self, *works: Callable[[], object]) -> list[Publisher]:
        """Let a publisher to "first" hold the lead, and run `works` until all of them wait."""
        publishers = [Publisher(lambda: publish("first", "n", ""))]
        eventually(lambda: self.sizes)
        for work in works:
            publishers.append(Publisher(work))
            waiting = len(publishers) - 1
            eventually(lambda n=waiting: len(commit(self._log)._waiting) == n)
        return publishers

    def release(self) -> None:
        self._released.set()


class Publisher(threading.Thread):
    """Runs `work` in a thread; its result or exception is the `outcome`."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.outcome: Any = None
        self._work = work
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self._work()
        except BaseException as error:
            self.outcome = error
        finally:
            connections.close_all()


def commit(log: DatabaseEventLog) -> group_commit.GroupCommit:
    return group_commit._of_alias[log.alias]


def ended(publishers: Sequence[Publisher]) -> list[Any]:
    for publisher in publishers:
        publisher.join(PATIENCE)
        assert not publisher.is_alive(), "a publisher hangs"
    return [publisher.outcome for publisher in publishers]


def texts(log: DatabaseEventLog, group: str) -> list[str]:
    return [event.data for event in log.since(group, START, 100)]


@on_both
def test_all_who_publish_during_an_append_share_the_next_one(
    log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch, seen: list[Event]
) -> None:
    appends = Appends(log, monkeypatch)
    queued: list[Event] = []
    put = outbox.Outbox.put

    def noted(self: outbox.Outbox, events: Sequence[Event]) -> None:
        queued.extend(events)
        put(self, events)

    monkeypatch.setattr(outbox.Outbox, "put", noted)

    def work(n: int) -> Callable[[], object]:
        if n % 2:
            return lambda: publish("g", "n", str(n))
        return lambda: publish_many([("g", "n", f"{n}"), ("other", "n", f"{n}")])

    publishers = appends.hold(*map(work, range(THREADS)))
    appends.release()
    _, *outcomes = ended(publishers)
    assert appends.sizes == [1, THREADS]
    published = [e for one in outcomes for e in (one if isinstance(one, list) else [one])]
    for group in ("g", "other"):
        stored = log.since(group, START, 100)
        assert [event.offset for event in stored] == [*range(1, len(stored) + 1)]
        assert [e for e in published if e.group == group] == stored
        # In the order of the log also for the channel layer: a gap would cost a read of the log.
        assert [e for e in queued if e.group == group] == stored
    assert len(seen) == len(queued) == 1 + len(published)


def test_publishers_to_other_groups_wait_for_no_append(
    log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    appends = Appends(log, monkeypatch, at_once=2)
    same = [lambda: publish("first", "n", ""), lambda: publish_many([("first", "n", ""), TWO])]
    publishers = appends.hold(*same)
    assert [publish("other", "n", "").offset for _ in range(3)] == [1, 2, 3]
    assert publish_many([TWO])[0].offset == 1
    assert [one.is_alive() for one in publishers] == [True] * 3
    appends.release()
    ended(publishers)
    # The batch of those that waited is the last one: it has the group that the first append had.
    assert appends.sizes == [1, 1, 1, 1, 1, 2]
    assert commit(log)._leaders == commit(log)._waiting == []


TWO = ("two", "n", "")


def test_a_batch_has_no_group_of_another_append(
    log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the events of a group leave in the order of their offsets."""
    groups: list[set[str]] = []
    lock = threading.Lock()

    def counting(append: Callable[..., Any]) -> Callable[..., Any]:
        def counted(given: Sequence[Any]) -> Any:
            events = [e for one in given for e in (one if isinstance(one, list) else [one])]
            own = {event.group for event in events}
            with lock:
                assert len(groups) < log.appends_at_once()
                assert all(own.isdisjoint(other) for other in groups)
                groups.append(own)
            try:
                return append(given)
            finally:
                with lock:
                    groups.remove(own)

        return counted

    for name in ("append", "append_together"):
        monkeypatch.setattr(log, name, counting(getattr(log, name)))

    def work(n: int) -> None:
        for m in range(20):
            publish_many([(f"g{(n + m * k) % 10}", "n", "") for k in range(n % 3 + 1)])

    ended_well = ended([Publisher(lambda n=n: work(n)) for n in range(THREADS)])
    assert ended_well == [None] * THREADS
    for n in range(10):
        assert [e.offset for e in log.since(f"g{n}", START, 1000)] == [
            *range(1, log.heads([f"g{n}"])[f"g{n}"].offset + 1)
        ]


@on_both
def test_a_database_with_one_writer_has_one_append_at_a_time(log: DatabaseEventLog) -> None:
    at_once = log.appends_at_once()
    assert at_once == 1 if connections[log.alias].vendor == "sqlite" else at_once > 1


@on_both
def test_an_event_that_the_database_refuses_fails_alone(
    log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refused(log, "bad"):
        appends = Appends(log, monkeypatch)
        publishers = appends.hold(
            *[lambda name=name: publish("g", name, name) for name in ("a", "bad", "b")]
        )
        appends.release()
        _, a, bad, b = ended(publishers)
    assert isinstance(bad, DatabaseError)
    assert {a.offset, b.offset} == {1, 2}
    assert sorted(texts(log, "g")) == ["a", "b"]


class refused:
    """The database refuses rows of events with the name `name`."""

    def __init__(self, log: DatabaseEventLog, name: str) -> None:
        self._connection = connections[log.alias]
        on_insert = f"BEFORE INSERT ON {EVENTS} WHEN NEW.name = '{name}'"
        self._make, self._drop = (
            (
                f"ALTER TABLE {EVENTS} ADD CONSTRAINT refused CHECK (name <> '{name}')",
                f"ALTER TABLE {EVENTS} DROP CONSTRAINT refused",
            )
            if self._connection.vendor == "postgresql"
            else (
                f"CREATE TRIGGER refused {on_insert} BEGIN SELECT RAISE(ABORT, 'refused'); END",
                "DROP TRIGGER refused",
            )
        )

    def __enter__(self) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(self._make)

    def __exit__(self, *raised: object) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(self._drop)


@on_both
@pytest.mark.parametrize("stage", ["before", "after"])
def test_an_interrupted_thread_leaves_no_other_waiting(
    log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    together = log.append_together

    def interrupted(batches: Sequence[Sequence[Event]]) -> Any:
        if stage == "after":
            together(batches)
        raise KeyboardInterrupt

    monkeypatch.setattr(log, "append_together", interrupted)
    appends = Appends(log, monkeypatch)
    publishers = appends.hold(*[lambda: publish("g", "n", "")] * 3)
    appends.release()
    _, *outcomes = ended(publishers)
    assert sorted(type(one).__name__ for one in outcomes) == [
        "KeyboardInterrupt",
        "OperationalError",
        "OperationalError",
    ]
    assert any("may have been published" in str(one) for one in outcomes)
    # Not tried again: the events could be in the log twice.
    assert publish("g", "n", "").offset == (4 if stage == "after" else 1)


def test_a_broken_connection_is_not_tried_again(
    log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit may have been done, so the events could be in the log twice."""
    append = log._append

    def lost(*args: Any) -> list[Event]:
        numbered = append(*args)
        if len(numbered) == 1:
            return numbered
        raise OperationalError("the connection is lost")

    monkeypatch.setattr(log, "_append", lost)
    appends = Appends(log, monkeypatch)
    publishers = appends.hold(*[lambda: publish("g", "n", "")] * 3)
    appends.release()
    _, *outcomes = ended(publishers)
    assert [str(one) for one in outcomes] == ["the connection is lost"] * 3
    assert len({id(one) for one in outcomes}) == 3
    assert len(texts(log, "g")) == 3


def test_a_thread_without_a_connection_delays_no_thread_that_has_one(
    log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect() -> None:
        raise OperationalError("too many clients")

    def first() -> object:
        monkeypatch.setattr(connections[log.alias], "connect", connect)
        return publish("g", "n", "")

    def second() -> object:
        connections[log.alias].ensure_connection()
        return publish("g", "n", "")

    appends = Appends(log, monkeypatch)
    publishers = appends.hold(first, second)
    appends.release()
    _, refused, published = ended(publishers)
    assert (str(refused), published.offset) == ("too many clients", 1)


class frozen:
    """A session of PostgreSQL that has the head of "frozen" locked."""

    def __init__(self, log: DatabaseEventLog) -> None:
        publish("frozen", "n", "first")
        self._session = connect_postgresql(str(connections[log.alias].settings_dict["NAME"]))

    def __enter__(self) -> None:
        self._session.autocommit = False
        self._session.execute(f'UPDATE {HEADS} SET "offset" = "offset" WHERE "group" = \'frozen\'')

    def __exit__(self, *raised: object) -> None:
        self._session.close()


def test_a_locked_group_in_an_append_of_many_delays_its_own_publisher_only(
    log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sse_app.eventlog.database.APPEND_SECONDS", PATIENCE)
    with frozen(log):
        appends = Appends(log, monkeypatch)
        groups = ("a", "frozen", "b")
        publishers = appends.hold(*[lambda g=group: publish(g, "n", "") for group in groups])
        appends.release()
        first, a, locked, b = publishers
        assert [event.offset for event in ended([first, a, b])] == [1, 1, 1]
        assert locked.is_alive()
        # From now on, events to it are in no append of others.
        assert not log.joins([Event.of("frozen", "n", "")])
        assert log.joins([Event.of("a", "n", "")])
    assert ended([locked])[0].offset == 2


def test_a_publisher_that_waits_for_a_locked_group_holds_the_lead_for_a_moment_only(
    log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(log, "appends_at_once", lambda: 1)
    monkeypatch.setattr("sse_app.eventlog.database.APPEND_SECONDS", PATIENCE)
    with frozen(log):
        locked = Publisher(lambda: publish("frozen", "n", ""))
        eventually(lambda: commit(log)._leaders)
        others = [Publisher(lambda: publish("a", "n", "")) for _ in range(5)]
        assert {event.offset for event in ended(others)} == {1, 2, 3, 4, 5}
        assert locked.is_alive()
    assert ended([locked])[0].offset == 2
    assert commit(log)._leaders == []


@on_both
def test_an_append_takes_as_many_events_as_one_statement(
    log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(log), "most_together", 3)
    appends = Appends(log, monkeypatch)
    two = [("g", "n", ""), ("g", "n", "")]
    publishers = appends.hold(
        *[lambda: publish_many(two), lambda: publish_many(two), lambda: publish("g", "n", "")]
    )
    appends.release()
    ended(publishers)
    assert appends.sizes == [1, 2, 2]  # one event, one call of two events, and two calls
    assert not group_commit.shares(log, [Event.of("g", "n", "")] * 4)


@on_both
def test_a_single_publisher_runs_the_statements_of_one_append(
    log: DatabaseEventLog, django_assert_num_queries: Any
) -> None:
    publish("g", "n", "")
    connection = connections[log.alias]
    with django_assert_num_queries(1 if connection.vendor == "postgresql" else 4, using=log.alias):
        publish("g", "n", "")


def test_who_must_not_wait_or_write_for_others_appends_alone(
    log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [Event.of("g", "n", "")]
    assert group_commit.shares(log, events)
    with connections[log.alias].execute_wrapper(lambda execute, *call: execute(*call)):
        assert not group_commit.shares(log, events)
    assert not group_commit.shares(MemoryEventLog(), events)
    with monkeypatch.context() as patch:
        patch.setattr(group_commit, "has_greenlets", lambda: True)
        assert not group_commit.shares(log, events)


async def test_the_thread_of_a_loop_waits_for_no_other_thread(log: DatabaseEventLog) -> None:
    assert not group_commit.shares(log, [Event.of("g", "n", "")])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_waits_for_no_thread_of_its_parent(
    log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    appends = Appends(log, monkeypatch)
    publishers = appends.hold()
    child = os.fork()
    if not child:
        os._exit(len(group_commit._of_alias))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    appends.release()
    ended(publishers)
