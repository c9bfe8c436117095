"""The name and the data of a member."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import override_settings

from sse_app import presence
from sse_app.checks.settings import check_settings
from sse_app.presence import tracker
from sse_app.presence.naming import described
from sse_app.runtime.telemetry import process_name
from sse_app.testing import capture_events

ROOM = "chat.room"
returned: Any = None


def shown(user: User, group: str) -> Any:
    if isinstance(returned, Exception):
        raise returned
    return returned or (f"{user.username} in {group}", {"color": "teal"})


def not_json() -> object:
    return object()


@pytest.fixture
def named() -> Iterator[None]:
    global returned
    path = f"{__name__}.shown"
    with override_settings(SSE_APP={"PRESENCE_GROUPS": ["chat.*"], "PRESENCE_DATA": path}):
        tracker._reset_after_fork()
        yield
        tracker._reset_after_fork()
        returned = None


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"username": "ann"}, "ann"),
        ({"username": "ann", "first_name": "Ann", "last_name": "Lee"}, "Ann Lee"),
        ({"username": "ann@example.org", "first_name": "Ann"}, "Ann"),
        ({"username": "ann", "first_name": "ann@example.org"}, "ann"),
        ({"username": "ann@example.org", "first_name": "ann@example.org"}, "5"),
    ],
)
def test_the_default_name_is_never_an_e_mail_address(fields: Any, name: str) -> None:
    assert described(User(pk=5, **fields), ROOM) == (name, "")


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("named")
def test_a_member_has_the_name_and_the_data_of_the_project() -> None:
    user = User.objects.create_user("ann")
    key = str(user.pk)
    with capture_events(ROOM) as seen:
        tracker._users[ROOM, key] = user
        tracker.keep({process_name()})
    data = {"user": key, "name": "ann in chat.room", "data": {"color": "teal"}}
    assert [json.loads(event.data) for event in seen] == [data]
    (member,) = presence.members(ROOM)
    assert (member.name, member.data) == ("ann in chat.room", {"color": "teal"})


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize(
    "wrong",
    [
        5,
        "x" * 256,
        ("ann",),
        ("ann", "x" * 1023),
        ("ann", {1: not_json()}),
        ("ann", float("nan")),
        ("\ud800", None),
        RuntimeError("on purpose"),
    ],
)
def test_a_function_that_fails_is_logged_and_the_member_has_the_default(
    wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    global returned
    returned = wrong
    assert described(User(pk=5, username="ann"), ROOM) == ("ann", "")
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert "PRESENCE_DATA" in record.getMessage()
    assert ROOM in record.getMessage()


@pytest.mark.usefixtures("named")
def test_a_function_may_return_a_name_only() -> None:
    global returned
    for value in ("Ann", ("Ann", None)):
        returned = value
        assert described(User(pk=5, username="ann"), ROOM) == ("Ann", "")


def test_a_path_that_can_not_be_imported_fails_the_check() -> None:
    with override_settings(SSE_APP={"PRESENCE_DATA": "nowhere.shown"}):
        assert "nowhere.shown" in str(check_settings(None))
