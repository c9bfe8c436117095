"""Sending broadcasts, once, and counting whom they reached: the domain, without the admin."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from channels.db import database_sync_to_async as in_thread
from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import OperationalError, connection, connections, transaction
from django.db.migrations.executor import MigrationExecutor
from django.test import override_settings
from django.utils import timezone

from sse_app import publish
from sse_app.broadcasts import sending
from sse_app.broadcasts.models import MOST_GROUPS
from sse_app.delivery.hub import get_hub
from sse_app.delivery.subscriber import subscribe
from sse_app.eventlog import event_log
from sse_app.models import Broadcast, BroadcastCount, StoredEvent
from sse_app.protocol.cursors import START, Position
from sse_app.protocol.events import Event
from sse_app.publishing import publish as publishing
from sse_app.runtime.telemetry import process_name

pytestmark = pytest.mark.django_db(transaction=True)

MEMORY = {"EVENT_LOG": "sse_app.eventlog.MemoryEventLog"}


def made(**fields: Any) -> Broadcast:
    return Broadcast.objects.create(
        **{"groups": ["orders"], "event": "n", "kind": "text", "body": "hi", **fields}
    )


def ago(seconds: float = 1.0) -> Any:
    return timezone.now() - timedelta(seconds=seconds)


def ahead(seconds: float = 60.0) -> Any:
    return timezone.now() + timedelta(seconds=seconds)


@pytest.fixture(params=["database", "memory", "redis"])
def log(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each kind of log in force."""
    if request.param == "redis":
        url = request.getfixturevalue("valkey")
        prefix = f"b{timezone.now().timestamp()}"
        kind = {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": url, "PREFIX": prefix}
        chosen: dict[str, Any] = {"EVENT_LOG": kind}
    else:
        chosen = MEMORY if request.param == "memory" else {}
    with override_settings(SSE_APP=chosen):
        yield request.param


# --- sending ---


def test_one_event_per_group_leaves_and_its_places_are_kept(log: str, seen: list[Event]) -> None:
    publish("orders", "n", "before")
    seen.clear()
    row = made(groups=["orders", "news"], event="closing", body="at five")
    assert sending.send(row.pk)
    told = {(event.group, event.name, event.data) for event in seen}
    assert told == {("orders", "closing", "at five"), ("news", "closing", "at five")}
    row.refresh_from_db()
    assert row.state == "sent"
    assert row.sent_at is not None
    heads = event_log().heads(["orders", "news"])
    assert row.places == [[group, *heads[group][:2]] for group in ("orders", "news")]
    assert heads["orders"].offset == 2


def test_it_is_sent_once(log: str, seen: list[Event]) -> None:
    row = made()
    assert [sending.send(row.pk) for _ in range(3)] == [True, False, False]
    assert len(seen) == 1


@pytest.mark.parametrize("state", ["sent", "cancelled", "failed"])
def test_only_what_is_scheduled_is_sent(seen: list[Event], state: str) -> None:
    row = made(state=state, send_at=ago())
    assert not sending.send(row.pk)
    sending.send_due()
    assert not sending.cancel(row.pk)
    assert seen == []


def test_of_many_who_are_there_first_one_sends(seen: list[Event]) -> None:
    """Real threads on real connections; each of them has seen the row as scheduled."""
    rows = [made(body=str(n), send_at=ago()) for n in range(10)]
    together = threading.Barrier(4)

    def run() -> None:
        together.wait()
        for _ in range(3):
            sending.send_due()
        connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(e.data for e in seen) == sorted(str(n) for n in range(len(rows)))
    assert set(Broadcast.objects.values_list("state", flat=True)) == {"sent"}


def test_state_and_event_are_one_transaction(seen: list[Event]) -> None:
    row = made()
    with transaction.atomic():
        assert sending.send(row.pk)
        transaction.set_rollback(True)
    row.refresh_from_db()
    assert (row.state, row.places, seen) == ("scheduled", [], [])
    assert not StoredEvent.objects.exists()
    assert event_log().heads(["orders"]) == {"orders": START}


@override_settings(SSE_APP=MEMORY)
def test_with_another_log_too_nothing_leaves_before_the_commit(seen: list[Event]) -> None:
    row = made()
    with transaction.atomic():
        sending.send(row.pk)
        assert seen == []
    assert len(seen) == 1
    row.refresh_from_db()
    assert row.places[0][0] == "orders"


def test_a_waiting_event_of_somebody_else_comes_first(seen: list[Event]) -> None:
    """It was committed before and only its numbering was missing."""
    event_log().stage([Event.of("orders", "n", "first")])
    sending.send(made(body="second").pk)
    assert [(event.data, event.offset) for event in seen] == [("first", 1), ("second", 2)]
    assert Broadcast.objects.get().places[0][2] == 2


def test_what_can_not_be_sent_fails_and_blocks_no_other(seen: list[Event]) -> None:
    bad = made(kind="template", body="{{ now }}", send_at=ago(9))
    huge = made(body="x" * 100_000, send_at=ago(8))
    good = made(body="good", send_at=ago(7))
    assert sending.send_due() is None
    assert [event.data for event in seen] == ["good"]
    for row, said in ((bad, "“template” can't be sent"), (huge, "MAX_EVENT_BYTES"), (good, "")):
        row.refresh_from_db()
        assert said in row.error
        assert row.state == ("failed" if said else "sent")
    sending.send_due()
    assert len(seen) == 1


def test_a_log_that_is_away_fails_it_and_says_so(
    seen: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    away = {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": "redis://127.0.0.1:1/0"}
    row = made(send_at=ago())
    with override_settings(SSE_APP={"EVENT_LOG": away}):
        sending.send_due()
    row.refresh_from_db()
    assert row.state == "failed"
    assert "127.0.0.1:1" in row.error
    assert "is lost" in caplog.text
    sending.send_due()
    assert seen == []


def test_a_database_that_gives_up_leaves_it_scheduled(
    seen: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = made(send_at=ago())

    def give_up(events: Any) -> Any:
        raise OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(sending, "publish_numbered", give_up)
        sending.send_due()
    row.refresh_from_db()
    assert row.state == "scheduled"
    sending.send_due()
    assert len(seen) == 1


def test_any_other_error_fails_it_so_that_it_is_not_tried_for_ever(
    seen: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = made(send_at=ago())

    def fail(events: Any) -> Any:
        raise TypeError("on purpose\0")

    monkeypatch.setattr(sending, "publish_numbered", fail)
    sending.send_due()
    row.refresh_from_db()
    assert (row.state, row.error, row.sent_at) == ("failed", "on purpose", None)


# --- when ---


def test_what_is_due_is_sent_and_the_next_one_named(
    seen: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)
    assert sending.send_due() is None
    made(body="later", send_at=ahead(60))
    made(body="soon", send_at=ahead(5))
    made(body="due", send_at=ago())
    made(body="now")
    seconds = sending.send_due()
    assert sorted(event.data for event in seen) == ["due", "now"]
    assert seconds == 5


def test_when_many_are_due_the_next_call_is_due_at_once(
    seen: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MOST_AT_ONCE", 3)
    for n in range(5):
        made(body=str(n), send_at=ago(9 - n))
    assert sending.send_due() == 0.0
    assert [event.data for event in seen] == ["0", "1", "2"]
    assert sending.send_due() is None
    assert len(seen) == 5


def test_looking_for_what_is_due_is_one_query(django_assert_num_queries: Any) -> None:
    made(send_at=ahead())
    with django_assert_num_queries(1):
        sending.send_due()


def test_a_scheduled_broadcast_outlives_who_composed_it(seen: list[Event]) -> None:
    ann = User.objects.create_user("ann")
    made(sent_by=ann, send_at=ago())
    ann.delete()
    sending.send_due()
    assert [event.data for event in seen] == ["hi"]


def test_what_is_cancelled_is_not_sent(seen: list[Event]) -> None:
    row = made(send_at=ago())
    assert sending.cancel(row.pk)
    assert not sending.cancel(row.pk)
    sending.send_due()
    assert seen == []


# --- what is valid ---


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"groups": []}, "groups"),
        ({"groups": "orders"}, "groups"),
        ({"groups": ["ok", "bad name"]}, "groups"),
        ({"groups": ["sse.control"]}, "groups"),
        ({"groups": [f"g{n}" for n in range(MOST_GROUPS + 1)]}, "groups"),
        ({"groups": [5, None, {}]}, "groups"),
        ({"event": "two words"}, "event"),
        ({"event": "sse.open"}, "event"),
        ({"event": "presence.join"}, "event"),
        ({"kind": "yaml"}, "kind"),
        ({"kind": "json", "body": "{"}, "body"),
        ({"body": "\ud800"}, "body"),
        ({"body": "a\0b"}, "body"),
        ({"body": "x" * 70_000}, "body"),
        ({"body": "\n" * 20_000}, "body"),
        ({"kind": "template", "body": "{{ now }}"}, "kind"),
        ({"send_at": ago()}, "send_at"),
        ({"send_at": ahead(500 * 86_400)}, "send_at"),
    ],
)
def test_what_could_not_be_published_is_not_valid(fields: dict[str, Any], wrong: str) -> None:
    given = {"groups": ["orders"], "event": "n", "kind": "text", "body": "hi", **fields}
    with pytest.raises(ValidationError) as refused:
        Broadcast(**given).full_clean()
    assert set(refused.value.message_dict) == {wrong}


def test_a_group_that_is_named_twice_gets_it_once() -> None:
    row = Broadcast(groups=["a", "b", "a"], event="n", kind="text", body="hi")
    row.full_clean()
    assert row.groups == ["a", "b"]


# --- counting ---


async def test_the_count_is_that_of_deliveries_here(seen: list[Event]) -> None:
    async with subscribe("orders") as one, subscribe("orders", "news") as two:
        row = await in_thread(made)(groups=["orders", "news"])
        await in_thread(sending.send)(row.pk)
        await anext(one), await anext(two), await anext(two)
        await in_thread(sending.count_deliveries)()
        count = await BroadcastCount.objects.aget()
        assert (count.broadcast_id, count.streams) == (row.pk, 3)
        assert count.process == process_name()
        # A topic forgets when its last reader leaves; what was counted stays.
    await in_thread(sending.count_deliveries)()
    assert (await BroadcastCount.objects.aget()).streams == 3


async def test_a_count_only_grows_and_is_written_when_it_does(seen: list[Event]) -> None:
    async with subscribe("orders"):
        row = await in_thread(made)()
        await in_thread(sending.send)(row.pk)
        place = Position(*(await Broadcast.objects.aget()).places[0][1:])
        await get_hub().heal("orders")
        topic = get_hub().topics["orders"]
        for reached, counted in ((7, 7), (5, 7), (6, 7), (9, 9)):
            topic._reached[place[:2]] = reached
            await in_thread(sending.count_deliveries)()
            count = await BroadcastCount.objects.aget()
            assert count.streams == counted
            last = count.counted_at
        await in_thread(sending.count_deliveries)()
        assert (await BroadcastCount.objects.aget()).counted_at == last


def test_old_broadcasts_are_not_counted_any_more() -> None:
    made(state="sent", sent_at=ago(sending.COUNT_SECONDS + 1), places=[["orders", "abc", 1]])
    sending._counts[12345] = {}
    sending.count_deliveries()
    assert sending._counts == {}


def test_a_forked_process_has_counted_nothing() -> None:
    sending._counts[1] = {("orders", Position("abc", 1)): 5}
    child = os.fork()
    if child == 0:
        os._exit(bool(sending._counts))
    assert os.waitpid(child, 0)[1] == 0
    sending._counts.clear()


# --- the groups that are known ---


def test_known_groups_are_those_of_the_log_first_those_that_begin_so(log: str) -> None:
    public = ["orders", "order.*", "preorder"]
    with override_settings(SSE_APP={**settings.SSE_APP, "PUBLIC_GROUPS": public}):
        for group in ("order.2", "order.1", "my.order", "news"):
            publish(group, "n", "")
        made(groups=["orderly", "other"])
        known = sending.known_groups("order", 20)
        assert known == ["order.1", "order.2", "orderly", "orders", "my.order", "preorder"]
        assert sending.known_groups("order", 2) == ["order.1", "order.2"]
        assert sending.known_groups("%", 20) == []
        assert "news" in sending.known_groups("", 20)


def test_the_apps_own_groups_are_not_among_them(seen: list[Event]) -> None:
    publishing.publish_events([Event(group="sse.control", name="n")])
    assert sending.known_groups("sse", 20) == []


def test_a_log_that_is_away_knows_none_and_the_others_are_known() -> None:
    away = {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": "redis://127.0.0.1:1/0"}
    with override_settings(SSE_APP={"EVENT_LOG": away, "PUBLIC_GROUPS": ["orders"]}):
        assert sending.known_groups("o", 20) == ["orders"]


# --- the migration ---


@pytest.fixture
def migrate_to() -> Iterator[Callable[[str], Any]]:
    def migrate(name: str) -> Any:
        executor = MigrationExecutor(connection)
        executor.migrate([("sse_app", name)])
        return MigrationExecutor(connection).loader.project_state([("sse_app", name)]).apps

    yield migrate
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes("sse_app"))


def test_what_was_sent_before_is_still_there(migrate_to: Callable[[str], Any]) -> None:
    old = migrate_to("0002_access").get_model("sse_app", "Broadcast")
    ann = User.objects.create_user("ann")
    for data in ({"a": "é"}, "plain <b>", [1], True, ""):
        old.objects.create(group="orders", event="n", data=data, sent_by_id=ann.pk)
    before = list(old.objects.order_by("pk").values_list("pk", "sent_at"))
    new = migrate_to("0003_broadcasts").get_model("sse_app", "Broadcast")
    rows = list(new.objects.order_by("pk"))
    assert [(row.kind, row.body) for row in rows] == [
        ("json", '{"a": "é"}'),
        ("text", "plain <b>"),
        ("json", "[1]"),
        ("json", "true"),
        ("text", ""),
    ]
    assert [(row.pk, row.sent_at) for row in rows] == before
    for row in rows:
        assert (row.groups, row.event, row.state) == (["orders"], "n", "sent")
        assert row.created_at == row.sent_at
        assert row.sent_by_id == ann.pk
    new.objects.create(groups=["later"], event="n", state="scheduled", body="x", send_at=ahead())
    back = migrate_to("0002_access").get_model("sse_app", "Broadcast")
    told = [(row.group, row.data) for row in back.objects.order_by("pk")]
    assert told == [("orders", data) for data in ({"a": "é"}, "plain <b>", [1], True, "")]


def test_a_scheduled_template_fails_and_a_sent_one_stays(
    migrate_to: Callable[[str], Any], seen: list[Event]
) -> None:
    old = migrate_to("0007_ticket_session").get_model("sse_app", "Broadcast")
    scheduled = {"groups": ["orders"], "event": "n", "state": "scheduled"}
    due = old.objects.create(**scheduled, kind="template", body="{{ now }}", send_at=ago())
    waiting = old.objects.create(**scheduled, kind="template", body="{{ now }}", send_at=ahead())
    text = old.objects.create(**scheduled, kind="text", body="hi", send_at=ahead())
    sent = old.objects.create(groups=["g"], event="n", kind="template", body="{{", state="sent")
    for migration in ("0008_no_templates", "0007_ticket_session", "0008_no_templates"):
        new = migrate_to(migration).get_model("sse_app", "Broadcast")
        for row in (due, waiting):
            failed = new.objects.get(pk=row.pk)
            assert failed.state == "failed"
            assert "templates can't be broadcast any more" in failed.error
        assert new.objects.get(pk=text.pk).state == "scheduled"
        stays = new.objects.get(pk=sent.pk)
        assert (stays.state, stays.kind, stays.body, stays.error) == ("sent", "template", "{{", "")
    # A process of the earlier release, which still runs beside this one, schedules another.
    old.objects.create(**scheduled, kind="template", body="{{ now }}", send_at=ago())
    sending.send_due()
    assert seen == []
    assert Broadcast.objects.filter(state="failed").count() == 3
