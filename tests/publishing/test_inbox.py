"""What pages send up: `on`, `off` and `POST send/`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, ValidationError
from django.test import Client, override_settings

from project.models import ChatMessage
from sse_app import off, on
from sse_app.protocol.events import Event
from sse_app.publishing.inbox import Message
from sse_app.signals import message_received

from ..support.senders import EVENT, URL, Page

pytestmark = pytest.mark.django_db(transaction=True)

PUBLIC = {"PUBLIC_GROUPS": ["orders", "chat.*"]}


@pytest.fixture
def ann() -> User:
    return User.objects.create_user("ann")


@pytest.fixture
def page(ann: User) -> Page:
    """A page that ann has open: signed in, with a CSRF token."""
    return Page(ann)


def test_the_return_value_of_the_handler_is_the_answer(page: Page, handled: Any) -> None:
    handled(lambda message: {"got": message.data, "price": message.event})
    answer = page.send(data=["é", 1])
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/json"
    assert answer.json() == {"got": ["é", 1], "price": EVENT}


@pytest.mark.parametrize("value", [None, 5, "text", [1], True])
def test_an_answer_may_be_any_json(page: Page, handled: Any, value: Any) -> None:
    handled(lambda message: value)
    assert page.send().json() == value


def test_the_handler_gets_the_message_with_the_user_of_the_session(
    page: Page, ann: User, handled: Any
) -> None:
    got: list[Message] = []
    handled(got.append)
    body = {"group": "orders", "event": EVENT, "data": {"user": "root"}, "user": 1}
    assert page.post(json.dumps(body)).status_code == 200
    (message,) = got
    assert message.user == ann
    assert (message.group, message.event, message.data) == ("orders", EVENT, {"user": "root"})
    assert message.request.path == URL


def test_an_async_handler_is_awaited(page: Page, ann: User, handled: Any) -> None:
    async def handler(message: Message) -> dict[str, Any]:
        return {"users": await User.objects.acount()}

    handled(handler)
    assert page.send().json() == {"users": 1}


def test_of_several_handlers_all_run_and_the_first_answer_counts(page: Page, handled: Any) -> None:
    ran: list[int] = []
    handled(lambda message: ran.append(1))
    handled(lambda message: ran.append(2) or "second")
    handled(lambda message: ran.append(3) or "third")
    assert page.send().json() == "second"
    assert ran == [1, 2, 3]


def test_off_removes_a_handler_and_may_be_called_again(page: Page, handled: Any) -> None:
    def first(message: Message) -> str:
        return "first"

    def second(message: Message) -> str:
        return "second"

    handled(first)
    handled(second)
    off(EVENT, first)
    off(EVENT, first)
    off("never.registered", first)
    assert page.send().json() == "second"
    off(EVENT, second)
    assert page.send().status_code == 404


def test_a_handler_registered_twice_runs_once(page: Page, handled: Any) -> None:
    ran: list[int] = []

    def handler(message: Message) -> None:
        ran.append(1)

    handled(handler)
    handled(handler)
    page.send()
    assert ran == [1]


def test_on_refuses_an_invalid_event_name() -> None:
    for name in ("sse.open", "presence.join", "two words", ""):
        with pytest.raises(ValueError, match=repr(name)):
            on(name)


def test_without_a_csrf_token_it_is_403_and_nothing_runs(page: Page, handled: Any) -> None:
    ran: list[Message] = []
    handled(ran.append)
    page.token = ""
    assert page.send().status_code == 403
    assert ran == []


def test_a_stranger_gets_403_and_does_not_learn_which_handlers_there_are(handled: Any) -> None:
    ran: list[Message] = []
    handled(ran.append)
    stranger = Page()
    assert stranger.send().status_code == 403
    assert stranger.send(event="no.handler").status_code == 403
    assert ran == []


def test_who_may_not_listen_to_a_group_may_not_speak_there(
    page: Page, ann: User, handled: Any
) -> None:
    handled(lambda message: "ran")
    assert page.send(group="secret").status_code == 403
    assert page.send(group=f"user.{ann.pk + 1}").status_code == 403
    assert page.send(group=f"user.{ann.pk}").status_code == 200


def nobody(user: Any, group: str, event: str, request: Any) -> bool:
    return False


async def everybody(user: Any, group: str, event: str, request: Any) -> bool:
    return True


def test_the_policy_decides_who_may_speak(page: Page, handled: Any) -> None:
    handled(lambda message: "ran")
    with override_settings(SSE_APP={**PUBLIC, "MAY_SPEAK": f"{__name__}.nobody"}):
        assert page.send().status_code == 403
    with override_settings(SSE_APP={**PUBLIC, "MAY_SPEAK": f"{__name__}.everybody"}):
        assert Page().send(group="secret").status_code == 200


def test_an_event_without_a_handler_is_404_and_named(page: Page) -> None:
    answer = page.send(event="no.handler")
    assert answer.status_code == 404
    assert "'no.handler'" in answer.json()["error"]


def test_a_long_body_is_413_and_says_the_limit(page: Page, handled: Any) -> None:
    handled(lambda message: "ran")
    with override_settings(SSE_APP={**PUBLIC, "MAX_BODY_BYTES": 200}):
        assert page.send(data="x" * 100).status_code == 200
        answer = page.send(data="x" * 200)
    assert answer.status_code == 413
    assert "200" in answer.json()["error"]


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""],
)
def test_another_content_type_is_415(page: Page, handled: Any, content_type: str) -> None:
    handled(lambda message: "ran")
    answer = page.post(json.dumps({"group": "orders", "event": EVENT}), content_type)
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]


def test_a_charset_in_the_content_type_is_fine(page: Page, handled: Any) -> None:
    handled(lambda message: "ran")
    body = json.dumps({"group": "orders", "event": EVENT})
    assert page.post(body, "application/json; charset=utf-8").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b" ",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"{}",
        b'{"group": "orders"}',
        b'{"event": "test.event"}',
        b'{"group": 5, "event": "test.event"}',
        b'{"group": "bad name", "event": "test.event"}',
        b'{"group": "orders", "event": "sse.open"}',
        b'{"group": "orders", "event": "presence.join"}',
        b'{"group": "sse.control", "event": "test.event"}',
        b'{"group": "orders\\n", "event": "test.event"}',
        b'{"group": "orders", "event": ["test.event"]}',
        b"[" * 100_000,
        b'{"data": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_body_that_is_no_message_is_400(page: Page, handled: Any, body: bytes) -> None:
    handled(lambda message: "ran")
    answer = page.post(body)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValidationError("too loud"), ["too loud"]),
        (ValidationError({"text": "too loud"}), {"text": ["too loud"]}),
        (ValidationError(["one", "two"]), ["one", "two"]),
    ],
)
def test_a_validation_error_of_the_handler_is_422_with_its_messages(
    page: Page, handled: Any, error: ValidationError, said: Any
) -> None:
    def handler(message: Message) -> None:
        raise error

    handled(handler)
    answer = page.send()
    assert answer.status_code == 422
    assert answer.json() == {"error": said}


def test_a_permission_error_of_the_handler_is_403(page: Page, handled: Any) -> None:
    def handler(message: Message) -> None:
        raise PermissionDenied("secret reason")

    handled(handler)
    answer = page.send()
    assert answer.status_code == 403
    assert "secret" not in answer.content.decode()


@pytest.mark.parametrize("method", ["get", "put", "delete", "patch"])
def test_other_methods_are_405(page: Page, method: str) -> None:
    answer = getattr(page.client, method)(URL, headers={"X-CSRFToken": page.token})
    assert answer.status_code == 405
    assert answer["Allow"] == "POST"


def test_receivers_hear_of_a_message_before_its_handler_and_cannot_stop_it(
    page: Page, handled: Any
) -> None:
    order: list[str] = []

    def heard(sender: Any, message: Message, **kwargs: Any) -> None:
        order.append("signal")
        raise RuntimeError("on purpose")

    handled(lambda message: order.append("handler"))
    message_received.connect(heard)
    try:
        assert page.send().status_code == 200
    finally:
        message_received.disconnect(heard)
    assert order == ["signal", "handler"]


# --- the demo's chat ---


def test_a_chat_message_is_saved_and_published_to_its_room(page: Page, seen: list[Event]) -> None:
    answer = page.send("chat.lobby", "chat.message", {"text": " hello ", "author": "root"})
    assert answer.status_code == 200
    row = ChatMessage.objects.get()
    assert answer.json() == {"id": row.pk}
    assert (row.room, row.author.username, row.text) == ("lobby", "ann", "hello")
    ((group, name, data),) = [(e.group, e.name, e.json()) for e in seen]
    assert (group, name) == ("chat.lobby", "chat.message")
    assert (data["id"], data["author"], data["text"]) == (row.pk, "ann", "hello")


@pytest.mark.parametrize(
    ("group", "data"),
    [
        ("chat.lobby", {"text": ""}),
        ("chat.lobby", {"text": "x" * 501}),
        ("chat.lobby", {"text": 5}),
        ("chat.lobby", "text"),
        ("chat.lobby", None),
        ("chat.lob.by", {"text": "x"}),
        ("chat." + "x" * 41, {"text": "x"}),
        ("orders", {"text": "x"}),
    ],
)
def test_a_chat_message_that_does_not_fit_is_422_and_publishes_nothing(
    page: Page, seen: list[Event], group: str, data: Any
) -> None:
    assert page.send(group, "chat.message", data).status_code == 422
    assert seen == []
    assert not ChatMessage.objects.exists()


def test_a_stranger_cannot_chat(seen: list[Event]) -> None:
    assert Page().send("chat.lobby", "chat.message", {"text": "x"}).status_code == 403
    assert seen == []


@pytest.mark.django_db
def test_csrf_is_checked_also_without_djangos_middleware(settings: Any) -> None:
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "csrf" not in name]
    client = Client(enforce_csrf_checks=True)
    answer = client.post("/events/send/", "{}", content_type="application/json")
    assert answer.status_code == 403
    assert b"CSRF" in answer.content
