"""The outermost guard, and composing the parts by hand."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.contrib.auth.models import AnonymousUser, User
from django.core.asgi import get_asgi_application
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError

from sse_app import publish, publish_many
from sse_app.access import readers
from sse_app.access.grants import Grant
from sse_app.access.limits import LIMITS
from sse_app.access.revocations import Revocation
from sse_app.asgi import event_stream_application, guard, is_stream
from sse_app.consumers import ABORT, TAKE_OVER, EventStreamConsumer
from sse_app.delivery.hub import Hub, running_hub, running_hubs
from sse_app.delivery.log_reader import PAGE_EVENTS
from sse_app.eventlog import MemoryEventLog, event_log
from sse_app.protocol.cursors import Cursor
from sse_app.publishing import outbox
from sse_app.routing import event_stream_urlpatterns

from ..support.parser import Parser
from ..support.patience import PATIENCE

START = {"type": "http.response.start", "status": 200, "headers": []}


def scope(path: str = "/events/", query: str = "", **more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost")],
        **more,
    }


class Request:
    """One request to an ASGI application in this process, read with the independent parser."""

    def __init__(self, application: Any, asked: dict[str, Any]) -> None:
        self.communicator = ApplicationCommunicator(application, asked)
        self.parser = Parser()
        self.ended = False

    async def start(self) -> int:
        await self.communicator.send_input({"type": "http.request"})
        return int((await self.communicator.receive_output(5))["status"])

    async def body(self) -> bytes:
        message = await self.communicator.receive_output(5)
        self.ended = not message.get("more_body", False)
        self.parser.feed(message.get("body", b""))
        return bytes(message.get("body", b""))

    async def until(self, data: str) -> None:
        while data not in [event.data for event in self.parser.events]:
            await self.body()

    async def leave(self) -> None:
        await self.communicator.send_input({"type": "http.disconnect"})
        await self.communicator.wait(PATIENCE)


@pytest.fixture
def memory(settings: Any) -> None:
    settings.SSE_APP = {
        "EVENT_LOG": "sse_app.eventlog.MemoryEventLog",
        "PUBLIC_GROUPS": ["open.*"],
    }


async def test_an_exception_before_the_response_is_busy_for_a_stream() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("on purpose")

    request = Request(guard(fails, busy=True), scope())
    assert await request.start() == 200
    while not request.ended:
        await request.body()
    (busy,) = request.parser.events
    assert (busy.name, busy.json()) == ("sse.busy", {"reason": "error"})
    await request.communicator.wait(PATIENCE)


async def test_an_exception_before_the_response_of_another_application_is_the_servers() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await guard(fails, busy=False)(scope(), None, None)


@pytest.mark.parametrize("busy", [True, False])
async def test_an_exception_after_the_start_ends_the_response_and_escapes_nobody(
    busy: bool,
) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        raise RuntimeError("on purpose")

    request = Request(guard(fails, busy=busy), scope())
    assert await request.start() == 200
    assert await request.body() == b"begun"
    await request.body()
    assert request.ended
    await request.communicator.wait(PATIENCE)


async def test_an_exception_of_a_stream_that_serves_already_escapes_nobody() -> None:
    class Failing:
        async def run(self) -> None:
            raise RuntimeError("on purpose")

    async def hands_over(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        scope["extensions"][TAKE_OVER](Failing())

    request = Request(guard(hands_over, busy=True), scope())
    assert await request.start() == 200
    await request.body()
    assert request.ended
    await request.communicator.wait(PATIENCE)


async def test_an_unexpected_error_before_the_stream_is_busy() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("on purpose")

    application = event_stream_application(get_asgi_application(), fails)
    request = Request(application, scope())
    assert await request.start() == 200
    await request.body()
    assert [event.name for event in request.parser.events] == ["sse.busy"]
    await request.communicator.wait(PATIENCE)


async def test_a_websocket_is_refused_where_django_would_raise() -> None:
    application = event_stream_application(get_asgi_application())
    asked = ApplicationCommunicator(application, scope() | {"type": "websocket"})
    await asked.send_input({"type": "websocket.connect"})
    assert await asked.receive_output(5) == {"type": "websocket.close"}
    await asked.wait(PATIENCE)


async def test_a_websocket_goes_to_an_application_of_the_projects_own() -> None:
    async def accepts(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    application = event_stream_application(ProtocolTypeRouter({"websocket": accepts}))
    asked = ApplicationCommunicator(application, scope() | {"type": "websocket"})
    assert await asked.receive_output(5) == {"type": "websocket.accept"}
    await asked.wait(PATIENCE)


async def test_an_end_that_nobody_takes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def begins(scope: Any, receive: Any, send: Any) -> None:
        await send(START)

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    monkeypatch.setattr("sse_app.asgi.END_SECONDS", 0.01)
    await asyncio.wait_for(guard(begins, busy=True)(scope(), None, send), PATIENCE)


@pytest.mark.parametrize(("version", "dropped"), [("1.1", 1), ("2", 0)])
async def test_what_drops_the_connection_is_handed_down_unless_others_share_it(
    version: str, dropped: int
) -> None:
    class Transport:
        aborted = 0

        def get_extra_info(self, name: str) -> None:
            return None

        def abort(self) -> None:
            self.aborted += 1

    class Cycle:
        """As in uvicorn: what has the transport also has `send`."""

        transport = Transport()

        async def send(self, message: Any) -> None:
            pass

    async def drops(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"].get(ABORT, lambda: None)()

    cycle = Cycle()
    await guard(guard(drops, busy=True), busy=True)(scope(http_version=version), None, cycle.send)
    assert cycle.transport.aborted == dropped


@pytest.mark.usefixtures("memory")
async def test_the_end_of_the_lifespan_is_the_end_of_all_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    application = event_stream_application(get_asgi_application())
    life = ApplicationCommunicator(application, {"type": "lifespan"})
    await life.send_input({"type": "lifespan.startup"})
    assert await life.receive_output(5) == {"type": "lifespan.startup.complete"}
    request = Request(application, scope(query="group=open.a"))
    assert await request.start() == 200
    await request.body()
    await life.send_input({"type": "lifespan.shutdown"})
    assert await life.receive_output(5) == {"type": "lifespan.shutdown.complete"}
    assert running_hubs() == []
    while not request.ended:
        await request.body()
    assert request.parser.events[-1].json() == {"reason": "shutdown"}
    assert not Hub.draining, "the next test's application would refuse all streams"
    monkeypatch.setattr(Hub, "draining", True)
    late = Request(application, scope(query="group=open.a"))
    assert await late.start() == 200
    await late.body()
    assert late.parser.events[0].name == "sse.busy"
    assert 1_000 <= (late.parser.retry or 0) <= 10_000


async def test_a_lifespan_goes_to_an_application_of_the_projects_own() -> None:
    async def starts(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.failed"})

    application = event_stream_application(ProtocolTypeRouter({"lifespan": starts}))
    asked = ApplicationCommunicator(application, {"type": "lifespan"})
    assert await asked.receive_output(5) == {"type": "lifespan.startup.failed"}


async def test_a_cancelled_response_is_ended_too() -> None:
    began = asyncio.Event()
    sent: list[dict[str, Any]] = []

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        began.set()
        await asyncio.Event().wait()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    task = asyncio.create_task(guard(waits, busy=True)(scope(), None, send))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/events/", "", True),
        ("/events", "", True),
        ("/events/send/", "", False),
        ("/eventsx", "", False),
        ("/", "", False),
        ("/below/events/", "/below", True),
        ("/none/at/all", "", False),
    ],
)
def test_the_stream_is_found_by_its_route(path: str, root: str, expected: bool) -> None:
    assert is_stream(scope(path, root_path=root)) is expected


def test_the_stream_is_found_below_the_script_name_of_the_settings(settings: Any) -> None:
    settings.FORCE_SCRIPT_NAME = "/below"
    assert is_stream(scope("/below/events/"))
    assert not is_stream(scope("/below/events/send/"))


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(
    ("query", "headers", "lookup", "reason"),
    [
        ("group=secret", {"cookie": "sessionid=x"}, "user_of", "store"),
        ("ticket=x", {}, "redeem", "ticket"),
        ("group=secret", {"authorization": "Bearer sse_x"}, "averify_token", "token"),
        ("grant={grant}", {}, "revoked_grants", "grant"),
    ],
)
async def test_what_can_not_be_looked_up_for_now_is_busy_and_no_refusal(
    monkeypatch: pytest.MonkeyPatch,
    query: str,
    headers: dict[str, str],
    lookup: str,
    reason: str,
) -> None:
    def away(*args: Any) -> Any:
        raise OperationalError("on purpose")

    monkeypatch.setattr(f"sse_app.access.admission.{lookup}", away)
    asked = scope(query=query.format(grant=Grant.to(None, ["secret"]).sign()))
    asked["headers"] += [(name.encode(), value.encode()) for name, value in headers.items()]
    request = Request(EventStreamConsumer.as_asgi(), asked)
    assert await request.start() == 200
    await request.body()
    (busy,) = request.parser.events
    assert (busy.name, busy.json()) == ("sse.busy", {"reason": reason})


@pytest.mark.usefixtures("memory")
async def test_fixed_groups_are_open_to_whoever_reaches_the_consumer() -> None:
    consumer = EventStreamConsumer.as_asgi(groups=["internal"])
    # Neither a name nor a signed page adds to them.
    grant = Grant.to(None, ["secret"]).sign()
    request = Request(consumer, scope(query=f"group=ignored&grant={grant}"))
    assert await request.start() == 200
    await request.body()
    assert request.parser.events[0].json()["groups"] == ["internal"]
    publish("internal", "n", "1")
    await request.until("1")
    await request.leave()
    assert running_hubs() == []


@pytest.mark.usefixtures("memory")
async def test_a_log_that_goes_away_during_a_replay_closes_the_stream_and_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = MemoryEventLog.asince

    async def away_after_a_page(self: MemoryEventLog, group: str, after: Any, limit: int) -> Any:
        if after.offset > 0:
            raise ConnectionError("on purpose")
        return await real(self, group, after, limit)

    publish_many([("open.a", "n", str(n)) for n in range(PAGE_EVENTS + 1)])
    monkeypatch.setattr(MemoryEventLog, "asince", away_after_a_page)
    consumer = guard(EventStreamConsumer.as_asgi(), busy=True)
    request = Request(consumer, scope(query="group=open.a&from=earliest"))
    assert await request.start() == 200
    while not request.ended:
        await request.body()
    _, *replayed, closed = request.parser.events
    assert 0 < len(replayed) <= PAGE_EVENTS
    assert (closed.name, closed.json()) == ("sse.close", {"reason": "log"})
    assert closed.id == replayed[-1].id
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []
    assert "could not read the event log or a snapshot" in caplog.text
    await request.communicator.wait(PATIENCE)


@pytest.mark.usefixtures("memory")
async def test_what_nobody_granted_is_refused() -> None:
    for query in ("group=secret", "group=open.a&group=secret", "group=user.1"):
        request = Request(EventStreamConsumer.as_asgi(), scope(query=query))
        assert await request.start() == 403, query


@pytest.mark.parametrize("count", ["5", 1.5, 0])
def test_what_can_not_be_retained_is_said_when_the_server_starts(
    settings: Any, count: object
) -> None:
    settings.SSE_APP = {"RETAIN": {"price.*": count}}
    with pytest.raises(ImproperlyConfigured, match=f"is {count!r}; it must be an int from 1"):
        event_stream_application(get_asgi_application())


def test_without_anything_retained_another_wrong_setting_does_not_fail_there(settings: Any) -> None:
    settings.SSE_APP = {"RETENTION_EVENTS": None}
    event_stream_application(get_asgi_application())


def test_fixed_groups_must_be_group_names() -> None:
    with pytest.raises(ValueError, match="'not a group'"):
        EventStreamConsumer(groups=["not a group"])


@pytest.mark.usefixtures("memory")
async def test_a_subclass_decides_who_may_listen() -> None:
    class Everybody(EventStreamConsumer):
        async def authorize(self, user: Any, groups: Any, request: Any) -> bool:
            return bool(request.GET.get("please"))

    assert await Request(Everybody.as_asgi(), scope(query="group=x")).start() == 403
    polite = Request(Everybody.as_asgi(), scope(query="group=x&please=1"))
    assert await polite.start() == 200
    await polite.leave()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("memory")
async def test_the_parts_compose_by_hand_with_the_middleware_of_channels() -> None:
    user = await User.objects.acreate(username="dora")
    routes = URLRouter(event_stream_urlpatterns("live/"))
    application = ProtocolTypeRouter({"http": AuthMiddlewareStack(routes)})
    for path in ("/live/", "/live"):
        request = Request(application, scope(path, "group=open.a"))
        assert await request.start() == 200
        await request.leave()
    own = f"group=user.{user.pk}"
    assert await Request(application, scope("/live/", own)).start() == 403

    async def signed_in(asked: dict[str, Any], receive: Any, send: Any) -> None:
        await routes({**asked, "user": user, "session": {}}, receive, send)

    request = Request(signed_in, scope("/live/", own))
    assert await request.start() == 200
    await request.leave()


# A sync policy runs where database work does, which looks after old connections.
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("memory")
async def test_a_policy_decides_and_its_failure_is_busy(settings: Any) -> None:
    consumer = EventStreamConsumer.as_asgi()
    for policy, group, status, first in (
        ("allow", "yes.1", 200, "sse.open"),
        ("allow", "no.1", 403, None),
        ("aallow", "yes.1", 200, "sse.open"),
        ("broken", "yes.1", 200, "sse.busy"),
    ):
        settings.SSE_APP = {
            "EVENT_LOG": "sse_app.eventlog.MemoryEventLog",
            "MAY_LISTEN": f"tests.doors.test_asgi.{policy}",
        }
        request = Request(consumer, scope(query=f"group={group}"))
        assert await request.start() == status
        if first:
            await request.body()
            assert request.parser.events[0].name == first
        await request.leave()


def allow(user: Any, group: str, request: Any) -> bool:
    return group.startswith("yes.")


async def aallow(user: Any, group: str, request: Any) -> bool:
    return group.startswith("yes.")


def broken(user: Any, group: str, request: Any) -> bool:
    raise RuntimeError("on purpose")


@pytest.mark.usefixtures("memory")
async def test_what_fails_before_there_is_a_stream_gives_its_places_back() -> None:
    class Failing(EventStreamConsumer):
        def make_transport(self, receive: Any) -> Any:
            raise RuntimeError("no transport")

    before = LIMITS.counts
    request = Request(guard(Failing.as_asgi(groups=["orders"]), busy=True), scope())
    assert await request.start() == 200
    await request.body()
    assert [event.json() for event in request.parser.events] == [{"reason": "error"}]
    assert LIMITS.counts == before
    assert running_hub() is None, "no stream would leave the hub"


@pytest.mark.usefixtures("memory")
async def test_a_group_that_is_lost_before_the_stream_is_open_is_not_in_it() -> None:
    class Losing(EventStreamConsumer):
        async def _join(self, stream: Any, *args: Any) -> Any:
            start = await super()._join(stream, *args)
            await stream._lose("open.b")  # As a revocation does that comes just now.
            return start

    application = guard(Losing.as_asgi(groups=["open.a", "open.b"]), busy=True)
    headers = [(b"host", b"localhost"), (b"last-event-id", b"unreadable")]
    request = Request(application, {**scope(), "headers": headers})
    assert await request.start() == 200
    while len(request.parser.events) < 2:
        await request.body()
    opened, reset = request.parser.events
    assert (opened.name, opened.json()["groups"]) == ("sse.open", ["open.a"])
    assert (reset.name, reset.json()["group"]) == ("sse.reset", "open.a")
    position = Cursor.parse(reset.id)
    assert position is not None
    assert len(position.positions) == 1
    await request.leave()


@pytest.mark.usefixtures("memory")
async def test_a_stream_is_not_opened_if_the_hub_reads_of_its_end_while_it_is_admitted() -> None:
    asked, gate = asyncio.Event(), asyncio.Event()

    class Deciding(EventStreamConsumer):
        async def authorize(self, user: Any, groups: Any, request: Any) -> bool:
            asked.set()
            await gate.wait()
            return True

    other = Request(guard(EventStreamConsumer.as_asgi(groups=["other"]), busy=True), scope())
    assert await other.start() == 200
    request = Request(guard(Deciding.as_asgi(), busy=True), scope(query="group=g"))
    await request.communicator.send_input({"type": "http.request"})
    await asked.wait()
    before = readers.revocation_count()
    outbox.send(await event_log().aappend([Revocation(group="g").to_event()]))
    async with asyncio.timeout(PATIENCE):
        while readers.revocation_count() == before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    gate.set()
    await request.communicator.receive_output(PATIENCE)
    while not request.ended:
        await request.body()
    assert [event.json() for event in request.parser.events] == [{"reason": "revoked"}]
    await other.leave()


async def test_a_stream_by_ticket_is_asked_again_without_anybodys_session() -> None:
    class Noting(EventStreamConsumer):
        async def authorize(self, user: Any, groups: Any, request: Any) -> bool:
            self.session = request.session
            return True

    headers = [(b"host", b"localhost"), (b"cookie", b"sessionid=of-somebody")]
    for query, key in (("group=a", "of-somebody"), ("ticket=x", None)):
        consumer = Noting()
        consumer.scope = {**scope(query=query), "headers": headers}
        assert await consumer._may_listen(AnonymousUser(), ["a"], None)
        assert consumer.session.session_key == key


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_the_health_is_told_for_any_host_and_scheme(settings: Any, method: str) -> None:
    """Django's handler would answer 400, and 301, which `curl -f` takes for a success."""
    settings.ALLOWED_HOSTS = ["www.example.com"]
    settings.SECURE_SSL_REDIRECT = True
    application = event_stream_application(get_asgi_application())
    for path in ("/events/health/", "/events/health"):
        asked = {**scope(path, method=method), "headers": [(b"host", b"10.0.0.7:8000")]}
        communicator = ApplicationCommunicator(application, asked)
        await communicator.send_input({"type": "http.request"})
        start = await communicator.receive_output(PATIENCE)
        body = await communicator.receive_output(PATIENCE)
        if method == "POST":
            assert start["status"] in (301, 400)
            continue
        assert start["status"] == 200
        assert body["body"] == (b"" if method == "HEAD" else FINE)
        assert dict(start["headers"])[b"Content-Length"] == str(len(FINE)).encode()


FINE = b'{"ready": true, "log": "ok", "layer": "ok"}'


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("memory")
async def test_a_stream_that_only_djangos_middleware_finds_is_served(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.doors.test_asgi"
    settings.MIDDLEWARE = ["tests.doors.test_asgi.choose_urlconf"]
    grant = Grant.to(None, ["signed"]).sign()
    asked = scope(query=f"group=open.a&grant={grant}")
    request = Request(event_stream_application(get_asgi_application()), asked)
    assert await request.start() == 200
    await request.body()
    assert request.parser.events[0].json()["groups"] == ["open.a", "signed"]
    assert asked["query_string"] == b"group=open.a&grant=hidden", "for the server's log"
    publish("open.a", "n", "1")
    await request.until("1")
    await request.leave()


urlpatterns: list[Any] = []


def choose_urlconf(get_response: Any) -> Any:
    """A middleware as those of django-hosts and django-tenants."""

    def choose(request: Any) -> Any:
        request.urlconf = "tests.urls"
        return get_response(request)

    return choose
