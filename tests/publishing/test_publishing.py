"""`publish()` and its twins: what leaves, when, and what never does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group
from django.db import DataError, InterfaceError, OperationalError, connections, transaction
from django.db.transaction import TransactionManagementError
from django.http import HttpRequest
from django.test import override_settings

from sse_app import (
    apublish,
    apublish_many,
    apublish_template,
    cursor,
    publish,
    publish_many,
    publish_template,
    reply,
)
from sse_app.eventlog import DatabaseEventLog, event_log
from sse_app.models import StoredEvent
from sse_app.protocol.cursors import START, Cursor
from sse_app.protocol.events import Event
from sse_app.publishing.inbox import Message
from sse_app.signals import event_published

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])

MEMORY = {"EVENT_LOG": "sse_app.eventlog.MemoryEventLog"}
POSTGRESQL = {"EVENT_LOG": {"BACKEND": "sse_app.eventlog.DatabaseEventLog", "ALIAS": "postgresql"}}


@pytest.fixture(params=["default", "postgresql"])
def alias(request: pytest.FixtureRequest) -> Iterator[str]:
    """The alias of the database log in force: SQLite, then PostgreSQL."""
    with override_settings(SSE_APP=POSTGRESQL if request.param == "postgresql" else {}):
        yield request.param


@contextmanager
def rolled_back(using: str = "default") -> Iterator[None]:
    with transaction.atomic(using=using):
        yield
        transaction.set_rollback(True, using=using)


def data(events: list[Event]) -> list[str]:
    return [event.data for event in events]


def logged(group: str = "g") -> list[str]:
    return data(event_log().since(group, START, 1000))


def test_outside_a_transaction_an_event_leaves_at_once_with_its_place(
    alias: str, seen: list[Event]
) -> None:
    event = publish("g", "order.updated", {"id": 5})
    assert (event.group, event.name, event.data) == ("g", "order.updated", '{"id":5}')
    assert event.offset == 1
    assert event_log().heads(["g"])["g"] == event.position
    assert seen == [event]
    assert event_log().since("g", START, 10) == [event]


def test_a_rolled_back_event_is_never_seen(alias: str, seen: list[Event]) -> None:
    with rolled_back(alias):
        event = publish("g", "n", "never")
        assert event.offset is None
    publish("g", "n", "after")
    assert data(seen) == logged() == ["after"]
    assert seen[0].offset == 1
    assert not StoredEvent.objects.using(alias).filter(offset=None).exists()


def test_a_committed_event_leaves_after_its_commit_with_a_place(
    alias: str, seen: list[Event]
) -> None:
    with transaction.atomic(using=alias):
        event = publish("g", "n", "x")
        assert event.offset is None
        assert seen == []
    assert [(e.data, e.offset) for e in seen] == [("x", 1)]
    assert logged() == ["x"]


def test_an_event_of_a_nested_block_leaves_with_the_outermost(
    alias: str, seen: list[Event]
) -> None:
    with transaction.atomic(using=alias):
        with transaction.atomic(using=alias):
            publish("g", "n", "inner")
        assert seen == []
        publish("g", "n", "outer")
    assert data(seen) == logged() == ["inner", "outer"]


def test_an_event_of_a_savepoint_that_is_rolled_back_is_never_seen(
    alias: str, seen: list[Event]
) -> None:
    with transaction.atomic(using=alias):
        publish("g", "n", "before")
        with rolled_back(alias):
            publish("g", "n", "never")
        publish("g", "n", "after")
    assert data(seen) == logged() == ["before", "after"]


def test_the_first_publish_of_a_transaction_may_be_rolled_back_alone(
    alias: str, seen: list[Event]
) -> None:
    with transaction.atomic(using=alias):
        with rolled_back(alias):
            publish("g", "n", "never")
        publish("g", "n", "after")
    assert data(seen) == logged() == ["after"]
    assert seen[0].offset == 1


def test_each_event_of_a_transaction_leaves_once_and_in_order(
    alias: str, seen: list[Event]
) -> None:
    with transaction.atomic(using=alias):
        for n in range(5):
            publish("a" if n % 2 else "b", "n", str(n))
    assert data([event for event in seen if event.group == "a"]) == logged("a") == ["1", "3"]
    assert data([event for event in seen if event.group == "b"]) == logged("b") == ["0", "2", "4"]


def test_a_non_durable_event_waits_for_the_commit(seen: list[Event]) -> None:
    with transaction.atomic():
        publish("g", "typing", "x", durable=False, key="ann")
        assert seen == []
    assert [(e.data, e.key, e.durable, e.offset) for e in seen] == [("x", "ann", False, None)]
    with rolled_back():
        publish("g", "typing", "never", durable=False)
    assert data(seen) == ["x"]
    assert logged() == []


def test_an_immediate_event_leaves_before_the_transaction_ends(seen: list[Event]) -> None:
    with rolled_back():
        publish("g", "progress", {"done": 40}, durable=False, immediate=True)
        assert data(seen) == ['{"done":40}']


@contextmanager
def autocommit_off(using: str) -> Iterator[None]:
    connections[using].ensure_connection()
    transaction.set_autocommit(False, using=using)
    try:
        yield
    except BaseException:
        transaction.rollback(using=using)
        raise
    finally:
        transaction.set_autocommit(True, using=using)


@pytest.mark.parametrize("setting", [None, MEMORY], ids=["own log", "memory log"])
@pytest.mark.parametrize("durable", [True, False])
def test_nothing_is_published_while_autocommit_is_off(
    alias: str, setting: Any, durable: bool, seen: list[Event]
) -> None:
    """A commit without `atomic()` calls no function, so no event could leave after it."""
    with override_settings(**({"SSE_APP": setting} if setting else {})):
        with autocommit_off(alias):
            with pytest.raises(TransactionManagementError, match=f"off for the database '{alias}'"):
                publish("g", "n", "x", using=alias, durable=durable)
            transaction.commit(using=alias)
        assert data(seen) == logged() == []
        assert not StoredEvent.objects.using(alias).exists()


def test_within_atomic_an_event_leaves_also_while_autocommit_is_off(
    alias: str, seen: list[Event]
) -> None:
    def write(text: str) -> None:
        # On SQLite a transaction begins with the first row, not with a savepoint.
        Group.objects.using(alias).create(name=text)
        with transaction.atomic(using=alias):
            publish("g", "n", text, using=alias)

    with autocommit_off(alias):
        write("never")
        transaction.rollback(using=alias)
        write("x")
        assert data(seen) == []
        transaction.commit(using=alias)
    assert data(seen) == logged() == ["x"]


def test_a_cursor_numbers_nothing_while_autocommit_is_off(alias: str, seen: list[Event]) -> None:
    with (
        mock.patch.object(DatabaseEventLog, "number", side_effect=OperationalError("away")),
        transaction.atomic(using=alias),
    ):
        publish("g", "n", "waiting", using=alias)
    with autocommit_off(alias):
        cursor("g")
        assert data(seen) == []
        assert StoredEvent.objects.using(alias).filter(offset=None).exists()
        transaction.rollback(using=alias)


def test_publishing_opens_no_connection_that_the_log_does_not_need() -> None:
    connections["default"].close()
    with override_settings(SSE_APP=MEMORY):
        publish("g", "n", "x")
    assert connections["default"].connection is None


def test_an_immediate_event_that_is_durable_is_refused(seen: list[Event]) -> None:
    for call in (publish, async_to_sync(apublish)):
        with pytest.raises(ValueError, match="immediate=True requires durable=False"):
            call("g", "n", "x", immediate=True)
    with pytest.raises(ValueError, match="immediate=True requires durable=False"):
        publish_many([("g", "n", "x")], immediate=True)
    assert seen == []


@pytest.mark.parametrize("error", [OperationalError, DataError, InterfaceError, RuntimeError])
def test_after_the_commit_nothing_raises_and_the_row_waits_for_the_sweep(
    alias: str, seen: list[Event], error: type[Exception]
) -> None:
    with mock.patch.object(DatabaseEventLog, "number", side_effect=error("away")):
        with transaction.atomic(using=alias):
            publish("g", "n", "x")
        assert seen == []
        assert logged() == []
    assert StoredEvent.objects.using(alias).filter(offset=None).count() == 1
    assert [(e.data, e.offset) for e in event_log().number()] == [("x", 1)]


def test_a_receiver_that_raises_disturbs_neither_the_publisher_nor_the_others(
    seen: list[Event],
) -> None:
    def broken(**kwargs: Any) -> None:
        raise RuntimeError("on purpose")

    event_published.connect(broken)
    try:
        publish("g", "n", "x")
    finally:
        event_published.disconnect(broken)
    assert data(seen) == ["x"]


def test_a_committed_event_that_was_not_numbered_goes_out_before_the_next(
    alias: str, seen: list[Event]
) -> None:
    with (
        mock.patch.object(DatabaseEventLog, "number", side_effect=OperationalError("away")),
        transaction.atomic(using=alias),
    ):
        publish("g", "n", "waiting")
    event = publish("g", "n", "next")
    assert (event.data, event.offset) == ("next", 2)
    assert data(seen) == logged() == ["waiting", "next"]


def test_a_log_outside_the_database_gets_the_event_after_the_commit(seen: list[Event]) -> None:
    with override_settings(SSE_APP=MEMORY):
        with transaction.atomic():
            publish("g", "n", "1")
            assert logged() == []
        with rolled_back():
            publish("g", "n", "never")
        assert logged() == data(seen) == ["1"]
        assert seen[0].offset == 1
        assert not StoredEvent.objects.exists()


def test_a_log_in_another_database_gets_the_event_after_the_commit_of_using(
    seen: list[Event],
) -> None:
    with transaction.atomic(using="postgresql"):
        publish("g", "n", "1", using="postgresql")
        assert logged() == []
    with rolled_back("postgresql"):
        publish("g", "n", "never", using="postgresql")
    assert data(seen) == logged() == ["1"]


def test_a_log_in_another_database_that_does_not_answer_is_logged_and_not_raised(
    seen: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("sse_app")
    logger.addHandler(caplog.handler)
    try:
        with (
            mock.patch.object(DatabaseEventLog, "append", side_effect=OperationalError("away")),
            transaction.atomic(using="postgresql"),
        ):
            publish("g", "n", "lost", using="postgresql")
    finally:
        logger.removeHandler(caplog.handler)
    assert seen == []
    assert "Lost 1 event(s)" in caplog.text


def test_the_two_databases_may_both_be_in_a_transaction(seen: list[Event]) -> None:
    with transaction.atomic():
        with transaction.atomic(using="postgresql"):
            publish("g", "n", "x", using="postgresql")
        assert seen == []
    assert data(seen) == logged() == ["x"]


def test_what_left_is_in_the_log_even_if_the_logs_own_transaction_is_rolled_back(
    seen: list[Event],
) -> None:
    """`using` is not in a transaction, the log's own database is."""
    with rolled_back():
        publish("g", "n", "x", using="postgresql")
    assert data(seen) == logged()


def test_an_event_over_the_size_limit_is_refused_with_both_sizes(seen: list[Event]) -> None:
    size = len(Event.of("g", "n", "é" * 100).block)
    with override_settings(SSE_APP={"MAX_EVENT_BYTES": size}):
        publish("g", "n", "é" * 100)
    with override_settings(SSE_APP={"MAX_EVENT_BYTES": size - 1}):
        with pytest.raises(ValueError, match=f"{size} bytes.*= {size - 1}"):
            publish("g", "n", "é" * 100)
        with pytest.raises(ValueError, match=f"{size} bytes"):
            async_to_sync(apublish)("g", "n", "é" * 100)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("group", "name", "shown"),
    [
        ("no such\n", "n", r"group name 'no such\\n'"),
        ("", "n", "group name ''"),
        ("sse.x", "n", "group name 'sse.x'"),
        ("g", "two words", "event name 'two words'"),
        ("g", "sse.open", "event name 'sse.open'"),
        ("g", None, "event name None"),
        ("sse.control", "revoked", "group name 'sse.control'"),
        ("g", "presence.join", "event name 'presence.join'"),
        ("g", "presence.x", "for example 'room.presence.x'"),
    ],
)
def test_an_invalid_or_reserved_group_or_event_is_refused_and_shown(
    seen: list[Event], group: str, name: Any, shown: str
) -> None:
    message = Message(None, group, name, None, HttpRequest(), stream="aa")
    for refuse in (
        lambda: publish(group, name, {}),
        lambda: publish(group, name, {}, durable=False, immediate=True),
        lambda: publish_many([("g", "n", 1), (group, name, {})]),
        lambda: publish_template(group, name, "admin/base.html"),
        lambda: async_to_sync(apublish)(group, name, {}),
        lambda: async_to_sync(apublish_many)([(group, name, {})]),
        lambda: async_to_sync(apublish_template)(group, name, "admin/base.html"),
        lambda: reply(message, name, {}, immediate=True),
    ):
        with pytest.raises(ValueError, match=shown):
            refuse()
    assert seen == []
    assert not StoredEvent.objects.exists()


@pytest.mark.parametrize(
    ("value", "error"), [(object(), TypeError), (float("nan"), ValueError), ("\ud800", ValueError)]
)
def test_data_that_cannot_go_out_is_refused(
    seen: list[Event], value: Any, error: type[Exception]
) -> None:
    with transaction.atomic(), pytest.raises(error):
        publish("g", "n", value)
    assert seen == []


def test_text_goes_out_as_it_is_and_the_rest_as_json() -> None:
    assert publish("g", "n", "<b>").data == "<b>"
    assert publish("g", "n").data == ""
    assert publish("g", "n", ["é"]).data == '["é"]'


def test_outside_a_transaction_the_errors_of_the_log_are_raised(seen: list[Event]) -> None:
    with (
        mock.patch.object(DatabaseEventLog, "append", side_effect=OperationalError("away")),
        pytest.raises(OperationalError),
    ):
        publish("g", "n", "x")
    assert seen == []


def test_publish_many_keeps_the_order_and_publishes_all_or_nothing(seen: list[Event]) -> None:
    events = publish_many([("a", "n", "1"), ("b", "n", "2"), ("a", "n", "3")])
    assert [(e.group, e.data, e.offset) for e in events] == [
        ("a", "1", 1),
        ("b", "2", 1),
        ("a", "3", 2),
    ]
    assert seen == events
    with pytest.raises(ValueError, match="bad name"):
        publish_many([("a", "n", "4"), ("bad name", "n", "5")])
    assert logged("a") == ["1", "3"]
    assert publish_many([]) == []


def test_publish_many_joins_the_transaction(seen: list[Event]) -> None:
    with rolled_back():
        publish_many([("g", "n", "never"), ("g", "n", "never")])
    with transaction.atomic():
        publish_many([("g", "n", "1"), ("g", "n", "2")])
        assert seen == []
    assert data(seen) == logged() == ["1", "2"]


def test_the_async_twins_do_the_same(seen: list[Event]) -> None:
    event = async_to_sync(apublish)("g", "n", {"a": 1})
    assert (event.data, event.offset) == ('{"a":1}', 1)
    events = async_to_sync(apublish_many)([("g", "n", "2"), ("g", "n", "3")])
    assert [e.offset for e in events] == [2, 3]
    assert seen == [event, *events]


def test_apublish_joins_the_transaction_of_the_sync_code_that_called_it(
    seen: list[Event],
) -> None:
    with rolled_back():
        async_to_sync(apublish)("g", "n", "never")
    with transaction.atomic():
        async_to_sync(apublish)("g", "n", "x")
        assert seen == []
    assert data(seen) == ["x"]


async def test_apublish_works_on_a_running_event_loop(seen: list[Event]) -> None:
    event = await apublish("g", "n", "x")
    assert event.offset == 1
    assert seen == [event]


def test_cursor_stands_after_what_is_committed_but_not_yet_numbered(
    alias: str, seen: list[Event]
) -> None:
    """It is on the page that the view is about to render."""
    with (
        mock.patch.object(DatabaseEventLog, "number", side_effect=OperationalError("away")),
        transaction.atomic(using=alias),
    ):
        publish("g", "n", "waiting")
    position = Cursor.parse(cursor("g"))
    assert position is not None
    place = position.get("g")
    assert place is not None
    assert place.offset == 1
    assert data(seen) == ["waiting"]
    assert event_log().since("g", place, 10) == []


def test_many_threads_that_publish_lose_nothing(alias: str, seen: list[Event]) -> None:
    def run(thread: int) -> None:
        try:
            for n in range(5):
                with transaction.atomic(using=alias):
                    publish("g", "n", f"{thread} {n} a")
                    publish("g", "n", f"{thread} {n} b")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as executor:
        list(executor.map(run, range(6)))
    assert sorted(data(seen)) == sorted(logged())
    offsets = [event.offset for event in event_log().since("g", START, 1000)]
    assert offsets == list(range(1, 61))


def test_cursor_says_where_the_groups_stand() -> None:
    publish("a", "n", "1")
    position = Cursor.parse(cursor("a", "b"))
    assert position is not None
    assert position.get("a") == event_log().heads(["a"])["a"]
    assert position.get("b") == START
    with pytest.raises(ValueError, match="'no group'"):
        cursor("no group")


@pytest.mark.django_db(transaction=True)
def test_a_commit_whose_answer_was_lost_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import OperationalError, connection

    from sse_app.models import StoredEvent

    commit = connection.commit

    def lost() -> None:
        commit()
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(connection, "commit", lost)
    with pytest.raises(OperationalError):
        publish("g", "n", "once")
    monkeypatch.undo()
    assert StoredEvent.objects.count() == 1
