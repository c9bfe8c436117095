"""`POST publish/`: what programs with a token publish; and what data can't do to a stream."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connections
from django.test import Client, override_settings
from django.utils import timezone

from sse_app import off, on, publish
from sse_app.access import tokens
from sse_app.access.tokens import create_token, revoke_token
from sse_app.eventlog import event_log
from sse_app.models import AccessToken, StoredEvent
from sse_app.protocol.events import Event
from sse_app.publishing.inbox import Message

from ..support.parser import Parser
from ..support.servers import Daphne

pytestmark = pytest.mark.django_db(transaction=True)

URL = "/events/publish/"


@pytest.fixture
def token() -> AccessToken:
    return AccessToken.objects.get(name="program")


@pytest.fixture
def text() -> str:
    """The text of a token that may publish `row.*` and `note` to `import.*`."""
    return create_token(
        "program",
        listen=["orders"],
        publish=["import.*"],
        events=["row.*", "note"],
        lifetime=timedelta(days=1),
    )[1]


def post(
    text: str | None, body: Any = None, *, path: str = URL, content_type: str = "application/json"
) -> Any:
    """Post as a program does: no cookie, no CSRF token."""
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    if not isinstance(body, bytes):
        body = json.dumps({"group": "import.7", "event": "row.added", "data": 1, **(body or {})})
    headers = {} if text is None else {"Authorization": f"Bearer {text}"}
    return client.post(path, body, content_type=content_type, headers=headers)


# --- what is published ---


def test_an_event_is_published_and_answered_with_its_offset(text: str, seen: list[Event]) -> None:
    for offset in (1, 2):
        answer = post(text, {"data": {"id": offset}})
        assert answer.status_code == 202
        assert answer["Content-Type"] == "application/json"
        assert answer.json() == {"group": "import.7", "event": "row.added", "offset": offset}
    assert [(e.group, e.name, e.json(), e.offset) for e in seen] == [
        ("import.7", "row.added", {"id": 1}, 1),
        ("import.7", "row.added", {"id": 2}, 2),
    ]


def test_text_goes_out_as_it_is_and_no_data_is_empty_text(text: str, seen: list[Event]) -> None:
    post(text, {"data": "<b>1</b>"})
    post(text, b'{"group": "import.7", "event": "note"}')
    post(text, {"data": None})
    assert [event.data for event in seen] == ["<b>1</b>", "", "null"]


def test_an_event_that_is_not_durable_has_no_offset(text: str, seen: list[Event]) -> None:
    answer = post(text, {"durable": False, "key": "ann"})
    assert (answer.status_code, answer.json()["offset"]) == (202, None)
    ((durable, key),) = [(event.durable, event.key) for event in seen]
    assert (durable, key) == (False, "ann")
    assert not StoredEvent.objects.exists()


def test_with_atomic_requests_it_is_published_before_the_answer(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    assert post(text).json()["offset"] == 1


# --- who may ---


def expire(token: AccessToken) -> None:
    token.expires_at = timezone.now() - timedelta(seconds=1)
    token.save()


def delete(token: AccessToken) -> None:
    token.delete()


@pytest.mark.parametrize("end", [expire, revoke_token, delete])
def test_a_token_that_ended_is_answered_like_a_wrong_one_and_like_none(
    text: str, token: AccessToken, seen: list[Event], end: Callable[[AccessToken], Any]
) -> None:
    assert post(text).status_code == 202
    end(token)
    wrong = [None, "", "x", text[:-1], f"sse_{token.pk}_" + "a" * 43, "sse_99999_" + "a" * 43]
    answers = [post(text), *map(post, wrong)]
    assert {answer.status_code for answer in answers} == {401}
    assert {answer["WWW-Authenticate"] for answer in answers} == {"Bearer"}
    assert len({answer.content for answer in answers}) == 1
    assert len(seen) == 1


def test_a_token_counts_in_the_header_only(text: str, seen: list[Event]) -> None:
    for name in ("token", "access_token", "authorization"):
        assert post(None, path=f"{URL}?{name}={quote(text)}").status_code == 401
        assert post(None, {name: text}).status_code == 401
    assert seen == []


def test_a_session_is_no_token(seen: list[Event]) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    body = json.dumps({"group": "import.7", "event": "note", "data": 1})
    assert client.post(URL, body, content_type="application/json").status_code == 401
    assert seen == []


@pytest.mark.parametrize(
    "body", [{"group": "orders"}, {"group": "import"}, {"event": "other"}, {"event": "row"}]
)
def test_a_group_or_event_that_the_token_does_not_name_is_403(
    text: str, seen: list[Event], body: dict[str, str]
) -> None:
    assert post(text, body).status_code == 403
    assert seen == []


def test_a_token_for_listening_publishes_nothing(seen: list[Event]) -> None:
    _, text = create_token("reader", listen=["*"], lifetime=timedelta(days=1))
    assert post(text).status_code == 403
    assert seen == []


def test_who_has_no_token_learns_nothing_of_the_body(text: str) -> None:
    assert post(None, b"[" * 1000).status_code == 401
    assert post(None, b"{}", content_type="text/plain").status_code == 401


# --- what is refused ---


@pytest.mark.parametrize(
    "body",
    [
        {"group": "two words"},
        {"group": "sse.x"},
        {"group": "import.7\n"},
        {"group": None},
        {"group": "sse.control"},
        {"event": "sse.open"},
        {"event": "row.a\ndata: x"},
        {"event": "row.\u2028"},
        {"event": ["row.added"]},
        {"durable": "no"},
        {"durable": 0},
        {"durable": None},
        {"key": 5},
        {"key": "x" * 129},
        b"[]",
        b"{",
        b"\xff",
        b'{"group": "import.7", "event": "row.added", "data": "\\ud800"}',
        b'{"group": "import.7", "event": "row.added", "key": "\\ud800", "durable": false}',
        b'{"group": "import.7", "event": "row.added", "data": NaN}',
        b'{"group": "import.7", "event": "row.added", "data": ' + b"[" * 40 + b"]" * 40 + b"}",
    ],
)
def test_a_body_that_is_no_event_is_400_and_publishes_nothing(
    text: str, seen: list[Event], body: Any
) -> None:
    answer = post(text, body)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]
    assert seen == []


@pytest.mark.parametrize(
    ("group", "event"), [("sse.control", "revoked"), ("chat.1", "presence.join")]
)
def test_no_token_publishes_what_the_app_alone_publishes(
    seen: list[Event], group: str, event: str
) -> None:
    _, text = create_token("all", publish=["*"], events=["*"], lifetime=timedelta(days=1))
    answer = post(text, {"group": group, "event": event, "data": {"user": "1", "name": "root"}})
    assert answer.status_code == 400
    assert "Invalid" in answer.json()["error"]
    assert seen == []


def test_a_body_or_an_event_too_long_is_413(text: str, seen: list[Event]) -> None:
    with override_settings(SSE_APP={"MAX_BODY_BYTES": 200}):
        assert post(text, {"data": "x" * 200}).status_code == 413
    with override_settings(SSE_APP={"MAX_EVENT_BYTES": 100}):
        answer = post(text, {"data": "x" * 100})
        # Each line end becomes a line of its own on the wire.
        assert post(text, {"data": "\n" * 30}).status_code == 413
    assert answer.status_code == 413
    assert "MAX_EVENT_BYTES" in answer.json()["error"]
    assert seen == []


def test_another_content_type_is_415(text: str) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert post(text, content_type=content_type).status_code == 415


@pytest.mark.parametrize("method", ["get", "put", "delete", "patch"])
def test_other_methods_are_405(text: str, method: str) -> None:
    answer = getattr(Client(), method)(URL, headers={"Authorization": f"Bearer {text}"})
    assert (answer.status_code, answer["Allow"]) == (405, "POST")


# --- what is away ---


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged, to the last detail, and by our loggers too."""
    loggers = [logging.getLogger(name) for name in ("sse_app", "django", "django.db.backends")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.propagate = True
    with caplog.at_level(logging.DEBUG):
        yield caplog
    for logger, (level, propagate) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate


def test_a_log_that_is_away_is_503_and_retried_later(
    text: str, seen: list[Event], said: pytest.LogCaptureFixture
) -> None:
    gone = {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": "redis://127.0.0.1:1/0"}
    with override_settings(SSE_APP={"EVENT_LOG": gone}):
        answer = post(text)
    assert answer.status_code == 503
    assert int(answer["Retry-After"]) > 0
    assert "error" in answer.json()
    assert seen == []
    assert "event log failed to store" in said.text


@pytest.mark.parametrize(
    "error", [OperationalError("gone"), RuntimeError("odd"), ValueError("bad")]
)
def test_whatever_the_log_raises_is_503_and_never_500(
    text: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def append(events: Any) -> Any:
        raise error

    monkeypatch.setattr(event_log(), "append", append)
    assert post(text).status_code == 503


def test_a_database_of_tokens_that_is_away_is_503(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(model: object) -> Any:
        raise OperationalError("gone")

    monkeypatch.setattr(tokens, "written", away)
    answer = post(text)
    assert answer.status_code == 503
    assert int(answer["Retry-After"]) > 0


def test_no_secret_is_logged_whatever_the_answer(
    text: str, token: AccessToken, said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = text.split("_", 2)[2]
    connections["default"].force_debug_cursor = True  # every query is logged with its values
    try:
        statuses = [post(text).status_code, post(text, {"group": "orders"}).status_code]
        statuses += [post(text, b"[").status_code, post("x" + text).status_code]
        with monkeypatch.context() as patch:
            patch.setattr(event_log(), "append", None)
            statuses.append(post(text).status_code)
        revoke_token(token)
        statuses.append(post(text).status_code)
    finally:
        connections["default"].force_debug_cursor = False
    assert statuses == [202, 403, 400, 401, 503, 401]
    assert "sse_app_accesstoken" in said.text
    assert secret not in said.text
    assert all(secret not in repr(record.__dict__) for record in said.records)


# --- injection, over a parser that is not ours ---

EVIL = [
    "a\rb",
    "a\nb",
    "a\r\nb",
    "a\n\nevent: x\ndata: y\n\n",
    "\r\rid: 1.evil\r\r",
    "\n: comment\nretry: 1\n\n",
    "\0",
    "id: \0",
    "\u2028\u2029\x85\x0b\x0c\x1c",
    "\ufeffdata: x",
    "\n",
    " leading",
    "",
    "\U0001f600",
]


def parsed(event: Event) -> list[tuple[str, str, str]]:
    parser = Parser()
    parser.feed(event.encode("1.ours"))
    parser.feed(b"data: after\n\n")
    assert (parser.comments, parser.retry) == (0, None)
    return [(found.name, found.data, found.id) for found in parser.events]


def as_read(data: str) -> str:
    return data.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize("data", EVIL)
@pytest.mark.parametrize("durable", [True, False])
def test_no_data_of_a_program_breaks_out_of_its_event(
    text: str, seen: list[Event], data: str, durable: bool
) -> None:
    assert post(text, {"data": data, "durable": durable, "key": data}).status_code == 202
    assert post(text, {"data": {data: data}, "durable": durable}).status_code == 202
    plain, structured = map(parsed, seen)
    assert plain == [("row.added", as_read(data), "1.ours"), ("message", "after", "1.ours")]
    ((_, inner, _), after) = structured
    assert json.loads(inner) == {data: data}
    assert after == ("message", "after", "1.ours")


@pytest.mark.parametrize("data", EVIL)
@pytest.mark.parametrize("key", [None, "k"])
def test_no_data_of_a_page_breaks_out_of_its_event(
    seen: list[Event], data: str, key: str | None
) -> None:
    def handler(message: Message) -> Any:
        publish("orders", "n", message.data)
        return message.data

    client = Client()
    client.force_login(User.objects.create_user("ann"))
    headers = {} if key is None else {"Idempotency-Key": key}
    on("test.evil")(handler)
    try:
        body = json.dumps({"group": "orders", "event": "test.evil", "data": data})
        posts = [
            client.post("/events/send/", body, content_type="application/json", headers=headers)
            for _ in range(2)
        ]
    finally:
        off("test.evil", handler)
    assert [(answer.status_code, answer.json()) for answer in posts] == [(200, data)] * 2
    assert parsed(seen[0]) == [("n", as_read(data), "1.ours"), ("message", "after", "1.ours")]


async def test_a_program_publishes_to_a_real_stream_and_nothing_it_sends_breaks_it(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne()
    text = daphne.manage("sse_token", "create", "p", "--publish=orders", "--event=*").strip()
    headers = {"Authorization": f"Bearer {text}"}
    lone = b'{"group": "orders", "event": "n", "data": "\\udc00"}'
    async with daphne.stream("group=orders") as stream, httpx.AsyncClient() as client:
        await stream.next()
        url = f"{daphne.url}/events/publish/"
        for data in EVIL:
            body = {"group": "orders", "event": "n", "data": data}
            assert (await client.post(url, json=body, headers=headers)).status_code == 202
        json_type = {**headers, "Content-Type": "application/json"}
        assert (await client.post(url, content=lone, headers=json_type)).status_code == 400
        events = await stream.take(len(EVIL))
        assert [(event.name, event.data) for event in events] == [("n", as_read(d)) for d in EVIL]
        assert stream.parser.retry != 1
        daphne.manage("sse_token", "revoke", "p")
        body = {"group": "orders", "event": "n", "data": "late"}
        assert (await client.post(url, json=body, headers=headers)).status_code == 401
    assert text not in daphne.text()
