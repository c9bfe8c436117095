"""`reply()`: to the stream that spoke, and to no other; typing; the chat's commands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.test import RequestFactory

from sse_app import areply, publish, reply
from sse_app.access import readers
from sse_app.access.control_group import ControlSink
from sse_app.access.readers import Reader
from sse_app.protocol.events import Event
from sse_app.protocol.groups import CONTROL_GROUP
from sse_app.protocol.replies import REPLY_EVENT, Reply, connection_id, stream_of
from sse_app.publishing.inbox import Message

from ..support.patience import PATIENCE
from ..support.readers import new_reader
from ..support.senders import EVENT
from ..support.senders import Page as Sender
from ..support.servers import Daphne, StreamReader
from ..support.subscribers import Reader as Subscriber

GROUP = "chat.lobby"


# --- over a real server ---


class Visitor:
    """A client with its cookies, which listens and speaks."""

    def __init__(self, daphne: Daphne, client: httpx.AsyncClient) -> None:
        self.daphne = daphne
        self.client = client

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[tuple[StreamReader, str]]:
        async with self.daphne.stream(f"group={GROUP}", client=self.client) as stream:
            yield stream, (await stream.next()).json()["connection"]

    async def say(self, text: str, **fields: Any) -> httpx.Response:
        body = {"group": GROUP, "event": "chat.message", "data": {"text": text}, **fields}
        headers = {"X-CSRFToken": self.client.cookies["csrftoken"]}
        return await self.client.post("/events/send/", json=body, headers=headers)


@asynccontextmanager
async def visit(daphne: Daphne, name: str) -> AsyncIterator[Visitor]:
    async with httpx.AsyncClient(base_url=daphne.url, timeout=PATIENCE) as client:
        await client.post("/test/login/", data={"name": name})
        await client.get("/login/")
        yield Visitor(daphne, client)


async def up_to(stream: StreamReader, name: str) -> list[str]:
    """What comes until an event of that name, which is left out; nobody's presence."""
    names: list[str] = []
    while (event := await stream.next()).name != name:
        names += [event.name] if not event.name.startswith("presence.") else []
    return names


async def test_a_reply_goes_to_the_stream_that_spoke_and_to_no_other(shared_daphne: Daphne) -> None:
    async with (
        visit(shared_daphne, "ann") as ann,
        visit(shared_daphne, "bob") as bob,
        ann.stream() as (spoke, connection),
        ann.stream() as (other, _),
        bob.stream() as (strange, _),
    ):
        assert (await ann.say("/help", connection=connection)).status_code == 200
        while (noted := await spoke.next()).name != "chat.note":
            pass
        assert noted.json() == {"text": "/who shows who is here. Only you see the answer."}
        await ann.say("hello")
        for stream in (other, strange):
            assert await up_to(stream, "chat.message") == []


async def test_nobody_can_have_a_reply_sent_to_somebody_else(shared_daphne: Daphne) -> None:
    async with (
        visit(shared_daphne, "ann") as ann,
        visit(shared_daphne, "bob") as bob,
        ann.stream() as (stream, connection),
    ):
        for wrong in (connection, "", connection[:-1], "x", connection.partition(":")[0]):
            assert (await bob.say("/help", connection=wrong)).status_code == 200
        await bob.say("hello")
        assert await up_to(stream, "chat.message") == []


@pytest.mark.parametrize("field", ["connection", "tab"])
@pytest.mark.parametrize("value", [5, None, ["x"], {}])
async def test_what_is_no_address_is_400(shared_daphne: Daphne, field: str, value: Any) -> None:
    async with visit(shared_daphne, "ann") as ann:
        answer = await ann.say("/help", **{field: value})
    assert answer.status_code == 400
    assert field in answer.json()["error"]


async def test_a_tab_is_named_on_the_wire_and_must_be_a_name(shared_daphne: Daphne) -> None:
    async with visit(shared_daphne, "ann") as ann, ann.stream() as (stream, connection):
        refused = await ann.say("/help", connection=connection, tab="a\nb")
        assert (refused.status_code, "1 to 64" in refused.json()["error"]) == (400, True)
        await ann.say("/help", connection=connection, tab="tab-1")
        await up_to(stream, "chat.note")


async def test_a_reply_finds_its_stream_in_another_process(
    make_daphne: Callable[..., Daphne], valkey: str
) -> None:
    first = make_daphne(environ={"REDIS_URL": valkey})
    second = make_daphne(environ={"REDIS_URL": valkey})
    async with visit(first, "ann") as ann, ann.stream() as (stream, connection):
        elsewhere = Visitor(second, httpx.AsyncClient(base_url=second.url, timeout=PATIENCE))
        async with elsewhere.client, elsewhere.stream():  # Its hub is there, too.
            elsewhere.client.cookies = ann.client.cookies
            await elsewhere.say("/help", connection=connection)
            await up_to(stream, "chat.note")


# --- what it is made of ---


def message(stream: str = "ab12cd34", tab: str = "") -> Message:
    request = RequestFactory().post("/events/send/")
    return Message(User(username="ann"), GROUP, "chat.message", None, request, stream, tab)


def test_a_connection_id_is_the_users_own() -> None:
    id = connection_id("ab12cd34", "5")
    assert stream_of(id, "5") == "ab12cd34"
    assert [stream_of(id, user) for user in ("", "6", "55")] == ["", "", ""]
    assert stream_of(id[:-1] + ("a" if id[-1] != "a" else "b"), "5") == ""


@pytest.mark.django_db
def test_without_a_stream_nothing_is_sent(sent: list[Event]) -> None:
    assert reply(message(stream=""), "note", {}, immediate=True) is False
    assert sent == []
    assert reply(message(), "note", {}, immediate=True) is True
    assert len(sent) == 1


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("event", "data", "error"),
    [("bad name", "", ValueError), ("sse.note", "", ValueError), ("note", object(), TypeError)],
)
def test_what_is_no_event_is_refused(event: str, data: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        reply(message(), event, data)


@pytest.mark.django_db
def test_a_reply_has_the_bounds_of_an_event(settings: Any) -> None:
    settings.SSE_APP = {"MAX_EVENT_BYTES": 1000}
    with pytest.raises(ValueError, match=r"'note' for group 'chat.lobby' has 1"):
        reply(message(), "note", "x" * 1000)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What is handed to the channel layer."""
    events: list[Event] = []
    monkeypatch.setattr("sse_app.publishing.outbox.send", events.extend)
    return events


@pytest.mark.django_db(transaction=True)
def test_a_reply_leaves_with_the_transaction_or_at_once(sent: list[Event]) -> None:
    with transaction.atomic():
        reply(message(), "later")
        assert sent == []
        reply(message(), "now", immediate=True)
        assert [Reply.from_event(event).name for event in sent] == ["now"]
    assert [Reply.from_event(event).name for event in sent] == ["now", "later"]
    with transaction.atomic():
        reply(message(), "never")
        transaction.set_rollback(True)
    assert len(sent) == 2


@pytest.mark.django_db(transaction=True)
async def test_the_async_twin_does_the_same(sent: list[Event]) -> None:
    assert await areply(message(tab="t"), "note", [1], key="k") is True
    made = Reply.from_event(sent[0])
    assert (made.group, made.name, made.json(), made.key) == (GROUP, "note", [1], "k")
    assert (made.stream, made.tab, made.durable) == ("ab12cd34", "t", False)
    assert made.encode(labelled=True) == b"tab: t\nevent: note\ndata: [1]\n\n"


@pytest.mark.parametrize("fields", [{}, [], {"stream": 5}, {"group": "a", "tab": "a\nb"}, "x"])
def test_a_malformed_reply_is_logged_and_skipped(
    fields: object, caplog: pytest.LogCaptureFixture
) -> None:
    event = Event.of_app(CONTROL_GROUP, REPLY_EVENT, fields, durable=False)
    ControlSink().show(event, "", b"")
    assert "Skipped a malformed control event" in caplog.text


async def test_a_reply_is_taken_on_the_loop_of_its_stream(listening: Reader) -> None:
    taken: list[Event] = []
    listening.stream.subscription.take_alone = taken.append  # type: ignore[method-assign,assignment]
    said = Reply(group=GROUP, name="n", data="1", stream=listening.id)

    async def show() -> None:
        ControlSink().show(said.to_event(), "", b"")

    await asyncio.to_thread(asyncio.run, show())
    assert taken == []
    await show()
    assert taken == [said]


async def test_two_streams_never_have_one_id(listening: Reader) -> None:
    other = new_reader(listening.stream.hub)
    other.stream.id = listening.id
    assert not readers.enter(other, readers.revocation_count())
    readers.leave(other)
    assert readers.readers() == [listening]


def test_no_reply_takes_the_place_of_another_on_the_way() -> None:
    slots = {made("1").to_event().slot for _ in range(2)}
    assert len(slots) == 2


@pytest.mark.usefixtures("memory")
async def test_a_reader_that_lags_gets_the_latest_per_key_and_tab() -> None:
    reader, quick = await Subscriber().start("g"), await Subscriber().start("g")
    publish("g", "n", "live")
    await reader.sink.until("live")
    reader.subscription.take_alone(made("1"))
    assert reader.sink.seen == ["live", "1"]
    reader.sink.open.clear()
    for text, key, tab in (("2", "", ""), ("3", "", ""), ("4", "k", ""), ("5", "", "t")):
        reader.subscription.take_alone(made(text, key=key, tab=tab))
    publish("g", "n", "6")
    await quick.sink.until("6")
    assert reader.sink.seen == ["live", "1"]
    reader.sink.open.set()
    await reader.sink.until("5")
    assert reader.sink.seen == ["live", "1", "6", "3", "4", "5"]
    for each in (reader, quick):
        await each.stop()
    reader.subscription.take_alone(made("7"))
    assert reader.sink.seen[-1] == "5"


def made(data: str, **fields: Any) -> Reply:
    return Reply.of("g", "note", data, stream="ab12cd34", **fields)


# --- the chat of the demo ---


@pytest.mark.django_db(transaction=True)
def test_that_somebody_types_is_told_and_not_kept(sent: list[Event]) -> None:
    ann = User.objects.create_user("ann")
    assert Sender(ann).send(GROUP, "chat.typing").status_code == 200
    (event,) = [event for event in sent if event.name == "chat.typing"]
    assert (event.durable, event.key) == (False, str(ann.pk))
    assert event.json() == {"user": str(ann.pk), "name": "ann"}
    assert Sender().send(GROUP, "chat.typing").status_code == 403


@pytest.mark.django_db(transaction=True)
def test_a_command_that_there_is_not_is_422(seen: list[Event]) -> None:
    answer = Sender(User.objects.create_user("ann")).send(GROUP, "chat.message", {"text": "/sing"})
    assert answer.status_code == 422
    assert "/sing" in json.loads(answer.content)["error"][0]
    assert seen == []


@pytest.mark.django_db(transaction=True)
def test_a_message_says_where_it_was_spoken(handled: Any) -> None:
    heard: list[Message] = []
    handled(heard.append)
    ann = User.objects.create_user("ann")
    page = Sender(ann)
    body = {"group": "orders", "event": EVENT, "data": None, "tab": "t"}
    for user in (str(ann.pk), "0"):
        page.post(json.dumps(body | {"connection": connection_id("ab12cd34", user)}))
    assert [(each.stream, each.tab) for each in heard] == [("ab12cd34", "t"), ("", "t")]
