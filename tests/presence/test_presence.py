"""Who is in a group: the names, the settings and the statements, without a server."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection, connections
from django.template import Context, Template
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

import sse_app
from sse_app import presence
from sse_app.checks.settings import check_settings
from sse_app.delivery.hub import Hub
from sse_app.models import GroupMember, Presence, ServerProcess
from sse_app.operations import processes
from sse_app.presence import tracker
from sse_app.protocol.events import Event
from sse_app.runtime.duties import DUTIES
from sse_app.runtime.telemetry import process_name

from ..support.servers import connect_postgresql

pytestmark = pytest.mark.django_db(transaction=True)

ROOM = "chat.room"


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    with override_settings(SSE_APP={"PRESENCE_GROUPS": ["chat.*"]}):
        tracker._reset_after_fork()
        yield
        tracker._reset_after_fork()


def there(*users: str, group: str = ROOM) -> None:
    """Let this process have streams of these users, and write it."""
    tracker._users.clear()
    tracker._users.update({(group, user): User(username=f"name of {user}") for user in users})
    tracker.keep({process_name()})


def told(seen: list[Event]) -> list[tuple[str, Any]]:
    return [(event.name, json.loads(event.data)["user"]) for event in seen]


class OnPostgresql:
    """A database router."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "postgresql"

    db_for_write = db_for_read


@pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])
def test_a_pass_does_not_wait_for_a_process_that_stopped_in_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pass runs in the thread that writes this process's row."""
    monkeypatch.setattr(tracker, "LOCK_SECONDS", 0.05)
    with override_settings(DATABASE_ROUTERS=[OnPostgresql()]):
        there("1")
        with connect_postgresql(connections["postgresql"].settings_dict["NAME"]) as stopped:
            stopped.autocommit = False
            stopped.execute(f"UPDATE {GroupMember._meta.db_table} SET since = since")
            with pytest.raises(OperationalError, match="lock timeout"):
                there("1", "2")
            stopped.rollback()
        there("1", "2")
        members = GroupMember.objects.filter(group=ROOM)
        assert sorted(member.user_key for member in members) == ["1", "2"]


def test_a_process_does_one_pass_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()
    other = threading.Thread(target=tracker.keep, args=[[]])

    def passing(alive: Collection[str]) -> float:
        monkeypatch.setattr(tracker, "_pass", lambda alive: began.set())
        other.start()
        assert not began.wait(0.2), "two passes at once"
        return 1.0

    monkeypatch.setattr(tracker, "_pass", passing)
    tracker.keep([])
    other.join()
    assert began.is_set()


def test_members_are_read_by_name_in_code_and_in_templates() -> None:
    there("2", "10")
    here, other = presence.members(ROOM)
    assert (here.user, here.name) == ("10", "name of 10")
    assert abs(other.since - timezone.now()) < timedelta(seconds=20)
    assert presence.members("chat.empty") == []
    page = Template(
        "{% load sse %}{% sse_members room as people %}"
        "{% for person in people %}{{ person.name }};{% endfor %}"
    )
    assert page.render(Context({"room": ROOM})) == "name of 10;name of 2;"


async def test_async_code_reads_them_too() -> None:
    assert await presence.amembers(ROOM) == []


def test_a_name_is_text_in_a_template() -> None:
    now = timezone.now()
    GroupMember.objects.create(group=ROOM, user_key="1", name="<b>", since=now)
    tag = "{% load sse %}{% sse_members 'chat.room' as people %}{{ people.0.name }}"
    assert Template(tag).render(Context()) == "&lt;b&gt;"


def test_a_group_of_which_nothing_is_kept_is_an_error_that_names_the_patterns() -> None:
    with pytest.raises(ValueError, match=re.escape("'orders'") + ".*" + re.escape("'chat.*'")):
        presence.members("orders")
    with pytest.raises(ValueError, match="Invalid group name"):
        presence.members("no name")


def test_the_package_has_the_module() -> None:
    assert sse_app.presence is presence


@pytest.mark.parametrize("given", ["chat.*", ["bad pattern"], [5], None])
def test_patterns_are_checked(given: Any) -> None:
    with override_settings(SSE_APP={"PRESENCE_GROUPS": given}):
        (message,) = check_settings(None)
    assert message.id == "sse_app.E002"
    assert "'PRESENCE_GROUPS'" in message.msg


def test_without_patterns_nothing_is_asked_of_the_database() -> None:
    with override_settings(SSE_APP={}), CaptureQueriesContext(connection) as queries:
        tracker.keep_presence()
    assert len(queries) == 0


def make_row(name: str, seconds: float = 0.0) -> None:
    """Write the row of a process that gave its last sign of life `seconds` ago."""
    now = timezone.now()
    seen_at = now - timedelta(seconds=seconds)
    ServerProcess.objects.create(name=name, host="h", pid=1, started_at=now, seen_at=seen_at)


def test_where_nobody_comes_or_goes_one_statement_is_asked_and_nothing_is_written() -> None:
    make_row(process_name())
    there("1")
    tracker.keep_presence()
    for _ in range(3):
        with CaptureQueriesContext(connection) as queries:
            pause = tracker.keep_presence()
        assert [query["sql"][:6] for query in queries] == ["SELECT"]
        assert pause is not None
        assert 0 < pause <= tracker.SIGN_SECONDS


def test_without_members_a_process_gives_no_sign_of_life_and_looks_for_dead_ones() -> None:
    make_row(process_name())
    there()
    with CaptureQueriesContext(connection) as queries:
        assert tracker.keep_presence() == tracker.LOOK_SECONDS
    assert [query["sql"][:6] for query in queries] == ["SELECT"]


def test_the_next_look_is_when_a_process_may_be_dead_or_a_member_leaves() -> None:
    make_row(process_name())
    make_row("other", seconds=9.0)
    there("1")
    Presence.objects.update(process="other")
    tracker._reset_after_fork()
    pause = tracker.keep_presence()
    assert pause is not None
    assert 0 < pause <= processes.ALIVE_SECONDS - 9.0
    later = timezone.now() + timedelta(seconds=2)
    GroupMember.objects.filter(user_key="1").update(leaves_at=later)
    pause = tracker.keep_presence()
    assert pause is not None
    assert 0 < pause <= 2.0
    ServerProcess.objects.filter(name="other").update(
        seen_at=timezone.now() - timedelta(seconds=processes.ALIVE_SECONDS)
    )
    tracker.keep_presence()
    assert not Presence.objects.exists()


def test_a_process_without_its_row_writes_the_row_before_its_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    woken: list[bool] = []
    monkeypatch.setattr(DUTIES, "runner", lambda: woken.append(True))
    tracker._users[ROOM, "1"] = User(username="ann")
    assert tracker.keep_presence() == tracker.CHANGE_SECONDS
    assert woken
    assert not Presence.objects.exists()
    make_row(process_name(), seconds=60.0)
    tracker.keep_presence()
    assert Presence.objects.count() == 1
    assert processes.seen().count() == 1, "others would take the process for dead"


def test_two_thousand_who_come_at_once_are_few_statements(seen: list[Event]) -> None:
    users = [str(n) for n in range(2000)]
    there()
    with CaptureQueriesContext(connection) as queries:
        there(*users)
    assert len(queries) < 50
    assert sorted(told(seen)) == sorted(("presence.join", user) for user in users)
    seen.clear()
    at_once = override_settings(SSE_APP={"PRESENCE_GROUPS": ["chat.*"], "PRESENCE_GRACE": 1e-6})
    with at_once, CaptureQueriesContext(connection) as queries:
        there()
        there()
    assert len(queries) < 60
    assert sorted(told(seen)) == sorted(("presence.leave", user) for user in users)
    assert not Presence.objects.exists()


def test_what_fails_changes_nothing_and_is_done_by_the_next_pass(
    monkeypatch: pytest.MonkeyPatch, seen: list[Event]
) -> None:
    there("1")
    with monkeypatch.context() as broken:
        broken.setattr(tracker, "publish_events", lambda *given, **named: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            there("1", "2")
    assert [member.user for member in presence.members(ROOM)] == ["1"]
    there("1", "2")
    assert told(seen) == [("presence.join", "1"), ("presence.join", "2")]


def test_a_pass_whose_commit_was_done_and_not_answered_is_known_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many came as went, so that the number of rows does not tell."""
    there("1")
    commit = connection.commit

    def unanswered() -> None:
        commit()
        monkeypatch.undo()  # Only this one.
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(connection, "commit", unanswered)
    with pytest.raises(OperationalError):
        there("2")
    there("2")
    assert [member.user for member in presence.members(ROOM)] == ["1", "2"], "1 may come back"
    assert [(row.user_key, row.process) for row in Presence.objects.all()] == [
        ("2", process_name())
    ]


def test_a_process_that_died_while_nobody_lived_is_found_by_the_next(seen: list[Event]) -> None:
    there("1", "2")
    Presence.objects.update(process="dead")
    tracker._reset_after_fork()
    there("1")
    due = GroupMember.objects.get(user_key="2").leaves_at
    assert due is not None
    assert 0 < (due - timezone.now()).total_seconds() <= tracker.RECONNECT_SECONDS
    assert told(seen) == [("presence.join", "1"), ("presence.join", "2")]
    GroupMember.objects.filter(user_key="2").update(leaves_at=timezone.now())
    there("1")
    assert told(seen)[2:] == [("presence.leave", "2")]


def test_a_process_that_stops_says_nothing_of_those_it_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there("1")
    monkeypatch.setattr(Hub, "draining", True)
    there()
    assert GroupMember.objects.get(user_key="1").leaves_at is None
    assert Presence.objects.count() == 1
