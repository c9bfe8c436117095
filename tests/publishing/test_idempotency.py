"""Idempotency keys: a repeated POST acts once, also when two arrive at the same time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import OperationalError, connections, models
from django.db.backends.utils import CursorWrapper
from django.db.models import QuerySet
from django.test import Client, override_settings
from django.utils import timezone

from sse_app import off, on, publish
from sse_app.eventlog import event_log
from sse_app.models import HandledMessage
from sse_app.publishing import idempotency
from sse_app.publishing.idempotency import STEP_ROWS, Answer, forget_old, run_once
from sse_app.publishing.inbox import Message

from ..support.patience import PATIENCE
from ..support.servers import eventually

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])

EVENT = "test.repeat"
KEY = "k-1"
DATABASES = ["default", "postgresql"]


class Router:
    """Keeps what was handled in one database, whatever the rest is in."""

    def __init__(self, alias: str) -> None:
        self.alias = alias

    def db_for_write(self, model: type[models.Model], **hints: Any) -> str | None:
        return self.alias if model is HandledMessage else None

    db_for_read = db_for_write


@pytest.fixture(params=DATABASES)
def alias(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each database in turn, as the one that keeps what was handled."""
    with override_settings(DATABASE_ROUTERS=[Router(request.param)]):
        yield request.param


Register = Callable[[Callable[[Message], Any]], None]


@pytest.fixture
def handled() -> Iterator[Register]:
    registered: list[Callable[..., Any]] = []
    yield lambda handler: registered.append(on(EVENT)(handler))
    for handler in registered:
        off(EVENT, handler)


def client_of(name: str) -> Client:
    client = Client()
    client.force_login(User.objects.get_or_create(username=name)[0])
    return client


@pytest.fixture
def ann() -> Client:
    return client_of("ann")


def speak(
    client: Client, data: Any = 1, key: str = KEY, group: str = "orders", event: str = EVENT
) -> Any:
    body = json.dumps({"group": group, "event": event, "data": data})
    headers = {"Idempotency-Key": key}
    return client.post("/events/send/", body, content_type="application/json", headers=headers)


def replayed(answer: Any) -> bool:
    assert answer.get("Idempotency-Replayed") in (None, "true")
    return "Idempotency-Replayed" in answer


# --- one after another ---


def test_a_repeat_acts_once_and_gets_the_first_answer_again(
    ann: Client, alias: str, handled: Register
) -> None:
    acts: list[Any] = []
    handled(lambda message: acts.append(message.data) or {"n": len(acts), "text": "é\0\u2028"})
    first, second, third = speak(ann), speak(ann), speak(ann)
    assert acts == [1]
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.content == second.content == third.content
    assert first["Content-Type"] == second["Content-Type"]
    assert (replayed(first), replayed(second), replayed(third)) == (False, True, True)


def test_without_a_key_every_post_acts(ann: Client, handled: Register) -> None:
    acts: list[Any] = []
    handled(lambda message: acts.append(message.data))
    body = json.dumps({"group": "orders", "event": EVENT})
    for _ in range(2):
        ann.post("/events/send/", body, content_type="application/json")
    assert len(acts) == 2
    assert not HandledMessage.objects.exists()


def test_another_key_group_event_or_speaker_is_another_message(
    ann: Client, handled: Register
) -> None:
    acts: list[Any] = []
    handled(lambda message: acts.append(message.data))
    other = on("test.other")(lambda message: acts.append(message.data))
    for answer in (
        speak(ann),
        speak(ann, key="k-2"),
        speak(ann, group="chat.a"),
        speak(ann, event="test.other"),
        speak(client_of("bob")),
    ):
        assert (answer.status_code, replayed(answer)) == (200, False)
    off("test.other", other)
    assert len(acts) == 5


def test_other_data_under_the_same_key_is_422_and_does_not_act(
    ann: Client, handled: Register
) -> None:
    acts: list[Any] = []
    handled(lambda message: acts.append(message.data))
    speak(ann, {"a": 1, "b": 2})
    assert replayed(speak(ann, {"b": 2, "a": 1}))
    answer = speak(ann, {"a": 1, "b": 3})
    assert answer.status_code == 422
    assert "Idempotency-Key" in answer.json()["error"]
    assert len(acts) == 1


@pytest.mark.parametrize("key", ["", " ", "a b", "a\tb", "é", "\x7f", "x" * 129, "a\nb"])
def test_a_key_that_is_not_visible_ascii_or_too_long_is_400(
    ann: Client, handled: Register, key: str
) -> None:
    acts: list[Any] = []
    handled(lambda message: acts.append(message.data))
    answer = speak(ann, key=key)
    assert answer.status_code == 400
    assert "128" in answer.json()["error"]
    assert acts == []


def test_the_longest_key_is_fine(ann: Client, handled: Register) -> None:
    handled(lambda message: None)
    assert [replayed(speak(ann, key="~" * 128)) for _ in range(2)] == [False, True]


def test_the_session_speaks_and_not_the_body(ann: Client, handled: Register) -> None:
    users: list[Any] = []
    handled(lambda message: users.append(message.user.username))
    body = {"group": "orders", "event": EVENT, "user": "root", "author": "root", "data": 1}
    headers = {"Idempotency-Key": KEY}
    for user in ("root", "ann"):
        ann.post(
            "/events/send/",
            {**body, "user": user},
            content_type="application/json",
            headers=headers,
        )
    assert users == ["ann"]


def everybody(user: Any, group: str, event: str, request: Any) -> bool:
    return True


def test_strangers_of_one_address_do_not_get_each_others_answers(handled: Register) -> None:
    handled(lambda message: message.request.COOKIES["name"])
    answers = []
    with override_settings(SSE_APP={"MAY_SPEAK": f"{__name__}.everybody"}):
        for name in ("one", "two", "one"):
            client = Client(enforce_csrf_checks=True)
            secret = name.ljust(32, "x")
            client.cookies["name"], client.cookies["csrftoken"] = name, secret
            client.defaults["HTTP_X_CSRFTOKEN"] = secret
            answers.append(speak(client))
    assert [answer.json() for answer in answers] == ["one", "two", "one"]
    assert [replayed(answer) for answer in answers] == [False, False, True]


def nobody(user: Any, group: str, event: str, request: Any) -> bool:
    return False


def test_who_lost_the_right_gets_no_answer_again(ann: Client, handled: Register) -> None:
    handled(lambda message: "secret")
    speak(ann)
    with override_settings(SSE_APP={"MAY_SPEAK": f"{__name__}.nobody"}):
        answer = speak(ann)
    assert (answer.status_code, b"secret" in answer.content) == (403, False)


# --- what is not an act is not kept ---


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValidationError("no"), 422), (PermissionDenied(), 403), (RuntimeError("on purpose"), 500)],
)
def test_after_an_error_nothing_is_kept_and_the_repeat_acts(
    alias: str, handled: Register, error: Exception, status: int
) -> None:
    ann = client_of("ann")
    ann.raise_request_exception = False
    acts: list[str] = []

    def handler(message: Message) -> str:
        acts.append("act")
        if len(acts) == 1:
            User.objects.create(username="half done")
            publish("orders", "n", "half done")
            raise error
        return "done"

    handled(handler)
    assert speak(ann).status_code == status
    if alias == "default":
        # What the handler began is undone with the key, where both are in one database.
        assert not User.objects.filter(username="half done").exists()
        assert event_log().heads(["orders"])["orders"].offset == 0
    assert not HandledMessage.objects.using(alias).exists()
    assert speak(ann).json() == "done"
    assert replayed(speak(ann))
    assert len(acts) == 2


def test_an_answer_that_cannot_be_json_undoes_the_act(ann: Client, handled: Register) -> None:
    def handler(message: Message) -> object:
        User.objects.create(username="half done")
        return object()

    handled(handler)
    ann.raise_request_exception = False
    assert speak(ann).status_code == 500
    assert not User.objects.filter(username="half done").exists()


def test_an_async_handler_works_in_the_same_transaction(ann: Client, handled: Register) -> None:
    async def handler(message: Message) -> None:
        await User.objects.acreate(username="half done")
        raise ValidationError("no")

    handled(handler)
    assert speak(ann).status_code == 422
    assert not User.objects.filter(username="half done").exists()


def test_an_event_of_the_handler_leaves_once_and_with_the_key(
    ann: Client, handled: Register, seen: list[Any]
) -> None:
    handled(lambda message: publish("orders", "n", "x") and None)
    speak(ann)
    speak(ann)
    assert [(event.data, event.offset) for event in seen] == [("x", 1)]


@pytest.mark.usefixtures("handled")
def test_atomic_requests_change_nothing(
    alias: str, handled: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in DATABASES:
        monkeypatch.setitem(connections[name].settings_dict, "ATOMIC_REQUESTS", True)
    ann = client_of("ann")
    acts: list[Any] = []
    handled(lambda message: acts.append(message.data))
    assert [replayed(speak(ann)) for _ in range(2)] == [False, True]
    assert len(acts) == 1


def test_a_database_that_gives_up_waiting_is_503_and_nothing_acted(
    ann: Client, handled: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts: list[Any] = []
    handled(lambda message: acts.append(message.data))

    def locked(rows: object, key: str) -> bool:
        raise OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(idempotency, "_claim", locked)
        answer = speak(ann)
    assert (answer.status_code, int(answer["Retry-After"]) > 0, acts) == (503, True, [])
    assert not replayed(speak(ann))


# --- two at once ---


def together(*works: Callable[[], Any]) -> list[Any]:
    """Run each of `works` in a thread with connections of its own; return their results."""

    def run(work: Callable[[], Any]) -> Any:
        try:
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(PATIENCE) for future in [pool.submit(run, work) for work in works]]


def somebody_waits_in_postgresql() -> bool:
    with connections["postgresql"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


def test_the_key_is_written_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transactions begin deferred, Django's default on SQLite, it could not be after."""
    connections["default"].ensure_connection()
    monkeypatch.setattr(connections["default"], "transaction_mode", None)
    real = idempotency._claim

    def meanwhile(rows: QuerySet[HandledMessage], key: str) -> bool:
        now = timezone.now()
        together(lambda: HandledMessage.objects.create(digest="another", created_at=now))
        return real(rows, key)

    monkeypatch.setattr(idempotency, "_claim", meanwhile)
    assert run_once("key", "body", lambda: Answer(200, "1")) == Answer(200, "1")


class Meeting:
    """Holds the first act until the second request is at the point where it has to wait."""

    def __init__(self, alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alias = alias
        self.acts: list[int] = []
        self.arrived = threading.Semaphore(0)
        real = idempotency.run_once

        def arriving(*args: Any) -> Answer:
            self.arrived.release()
            return real(*args)

        monkeypatch.setattr(idempotency, "run_once", arriving)

    def act(self) -> int:
        self.acts.append(threading.get_ident())
        if len(self.acts) == 1:
            assert all(self.arrived.acquire(timeout=PATIENCE) for _ in range(2))
            if self.alias == "postgresql":
                # SQLite's wait for its lock can't be looked at.
                eventually(somebody_waits_in_postgresql)
        return len(self.acts)


def test_two_at_once_act_once_and_get_one_answer(
    alias: str, handled: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = Meeting(alias, monkeypatch)
    handled(lambda message: {"n": meeting.act()})
    clients = [client_of("ann"), client_of("ann")]
    answers = together(*(lambda client=client: speak(client) for client in clients))  # type: ignore[misc]
    assert len(meeting.acts) == 1
    assert [answer.json() for answer in answers] == [{"n": 1}] * 2
    assert sorted(map(replayed, answers)) == [False, True]


def test_of_two_at_once_the_second_acts_if_the_first_one_fails(
    alias: str, handled: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = Meeting(alias, monkeypatch)

    def handler(message: Message) -> int:
        n = meeting.act()
        if n == 1:
            raise ValidationError("the first fails")
        return n

    handled(handler)
    clients = [client_of("ann"), client_of("ann")]
    answers = together(*(lambda client=client: speak(client) for client in clients))  # type: ignore[misc]
    assert sorted(answer.status_code for answer in answers) == [200, 422]
    assert len(meeting.acts) == 2
    assert not any(map(replayed, answers))


def test_many_at_once_act_once(alias: str) -> None:
    acts: list[int] = []

    def act() -> Answer:
        acts.append(1)
        return Answer(200, "1")

    answers = together(*[lambda: run_once("k", "b", act) for _ in range(8)])
    assert len(acts) == 1
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 7


def test_a_key_that_is_taken_and_whose_answer_cannot_be_seen_is_given_up(
    alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the caller's transaction reads from a snapshot older than the answer."""
    monkeypatch.setattr(idempotency, "_claim", lambda rows, key: False)
    with pytest.raises(OperationalError):
        run_once("k", "b", lambda: Answer(200, "1"))


# --- forgetting ---


def stored(alias: str, count: int, age: timedelta) -> None:
    made = timezone.now() - age
    HandledMessage.objects.using(alias).bulk_create(
        HandledMessage(digest=f"{age} {n}", status=200, answer='["b", "1"]', created_at=made)
        for n in range(count)
    )


def test_answers_older_than_a_day_are_forgotten_in_bounded_steps(
    alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(alias, 2 * STEP_ROWS + 7, timedelta(hours=24, minutes=1))
    stored(alias, 3, timedelta(hours=23))
    widest = 0
    real = CursorWrapper.execute

    def execute(self: Any, sql: str, params: Any = None) -> Any:
        nonlocal widest
        if sql.startswith("DELETE"):
            widest = max(widest, len(params))
        return real(self, sql, params)

    monkeypatch.setattr(CursorWrapper, "execute", execute)
    assert forget_old(limit=STEP_ROWS + 1) == STEP_ROWS + 1
    assert forget_old() == STEP_ROWS + 6
    assert forget_old() == 0
    assert 0 < widest <= STEP_ROWS
    assert HandledMessage.objects.using(alias).count() == 3


def test_a_key_that_was_forgotten_is_free(alias: str) -> None:
    run_once("k", "b", lambda: Answer(200, "1"))
    HandledMessage.objects.using(alias).update(created_at=timezone.now() - timedelta(days=2))
    assert run_once("k", "b", lambda: Answer(200, "2")).replayed
    forget_old()
    assert run_once("k", "b", lambda: Answer(200, "2")) == Answer(200, "2")


def test_a_key_forgotten_while_somebody_asks_is_free(
    alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_once("k", "b", lambda: Answer(200, "1"))
    real = idempotency._claim

    def claim(rows: QuerySet[HandledMessage], key: str) -> bool:
        claimed = real(rows, key)
        if not claimed:
            rows.all().delete()
        return claimed

    monkeypatch.setattr(idempotency, "_claim", claim)
    assert run_once("k", "b", lambda: Answer(200, "2")) == Answer(200, "2")
