"""What a request may do to Daphne before any application is asked, from raw sockets."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sse_app.asgi import event_stream_application
from sse_app.delivery.transports import daphne_requests, servers

from ..support.raw_http import Answer, Connection, Request
from ..support.servers import Daphne, Server
from ..support.sleepers import run
from ..support.valkeys import free_port

EVIL = b"http://evil.example"
HEADERS = tuple(
    (name, EVIL) for name in (b"Daphne-Root-Path", b"daphne-root-path", b"Daphne_Root_Path")
)
UPGRADE = (
    (b"Connection", b"Upgrade"),
    (b"Upgrade", b"websocket"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
)
FORM = b"application/x-www-form-urlencoded"


class PlainDaphne(Daphne):
    """Serves a plain site, and nobody asks it for anything before the test does."""

    application = "tests.support.plain_asgi:wrapped"

    def command(self) -> list[str]:
        return [*super().command()[:-1], self.application]

    def _answers(self) -> bool:
        return True  # Its socket listens already.

    def ask(self, target: bytes, *headers: tuple[bytes, bytes], **options: Any) -> Answer:
        connection = Connection(self.port)
        try:
            answer = connection.ask(Request(target=target, headers=headers, **options))
        finally:
            connection.close()
        assert answer is not None, self.text()
        return answer


class Runserver(PlainDaphne):
    """`manage.py runserver`, which takes no socket."""

    def command(self) -> list[str]:
        self.port = free_port()
        address = f"127.0.0.1:{self.port}"
        return [sys.executable, "-m", "django", "runserver", "--noreload", address]

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.text()
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", self.port)) == 0


def composed(name: str) -> type[PlainDaphne]:
    return type(name, (PlainDaphne,), {"application": f"tests.support.plain_asgi:{name}"})


KINDS = [
    *map(composed, ("wrapped", "under_middleware", "under_static_files", "by_hand")),
    Runserver,
]


@pytest.fixture
def make_plain(tmp_path: Path) -> Iterator[Callable[..., PlainDaphne]]:
    """Start the plain site; `make_plain(PlainDaphne, "--root-path", "/app")`."""
    started: list[Server] = []

    def make(kind: type[PlainDaphne] = PlainDaphne, *options: str) -> PlainDaphne:
        environment = {"DJANGO_SETTINGS_MODULE": "tests.support.plain"}
        server = kind(tmp_path, environment, options=options)
        started.append(server)
        return server.start()

    yield make
    for server in started:
        server.close()


# --- the mount point ---


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_visitor_chooses_the_mount_point_of_the_site(
    make_plain: Callable[..., PlainDaphne], kind: type[PlainDaphne]
) -> None:
    site = make_plain(kind)
    assert site.ask(b"/", *UPGRADE, *HEADERS).status == 403
    expected = {"script": "/static/a.js", "page": "/page/", "sockets": [""]}
    # The first page of the process, which decides on a relative STATIC_URL, and another visitor's.
    for headers in (HEADERS, ()):
        assert json.loads(site.ask(b"/page/", *headers).body) == expected
    assert site.text().count("Daphne-Root-Path, which is ignored") == 1


@pytest.mark.parametrize("name", ["wrapped", "by_hand"])
def test_daphnes_option_chooses_the_mount_point_whatever_a_visitor_sends(
    make_plain: Callable[..., PlainDaphne], name: str
) -> None:
    site = make_plain(composed(name), "--root-path", "/app")
    assert site.ask(b"/app/", *UPGRADE, *HEADERS).status == 403
    expected = {"script": "/app/static/a.js", "page": "/app/page/", "sockets": ["/app"]}
    for headers in (HEADERS, ()):
        assert json.loads(site.ask(b"/app/page/", *headers).body) == expected


def test_a_ticket_and_the_stream_are_where_the_site_is(shared_daphne: Daphne) -> None:
    connection = Connection(shared_daphne.port)
    page = connection.ask(Request(target=b"/", headers=HEADERS))
    assert page is not None
    assert EVIL not in page.body
    cookie = page.headers["set-cookie"].partition(";")[0].encode()
    headers = (
        *HEADERS,
        (b"Cookie", cookie),
        (b"X-CSRFToken", cookie.partition(b"=")[2]),
        (b"Content-Type", b"application/json"),
    )
    body = b'{"groups": ["clock"]}'
    ticket = connection.ask(Request(b"POST", b"/events/ticket/", headers, body))
    assert ticket is not None
    url = json.loads(ticket.body)["url"]
    assert url.startswith("/events/?ticket=")
    stream = connection.ask(Request(target=url.encode(), headers=HEADERS))
    assert stream is not None
    assert stream.is_stream
    connection.close()


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What Daphne hands to an application, of a server with a mount point."""
    from daphne.server import Server as DaphneServer

    monkeypatch.setattr(servers, "_warned", set())
    server = DaphneServer("application", endpoints=["tcp:0"], root_path="/app")
    return partial(server.handle_reply, object())


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_request_that_came_before_daphne_was_prepared_is_corrected(
    monkeypatch: pytest.MonkeyPatch, send: Any, kind: str
) -> None:
    from daphne.http_protocol import WebRequest

    monkeypatch.delattr(WebRequest, "requestReceived")
    seen: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["root_path"])

    scope = {"type": kind, "path": "/", "root_path": EVIL.decode(), "headers": []}
    await event_stream_application(application)(scope, None, send)
    assert seen == ["/app"]
    assert WebRequest.requestReceived is daphne_requests.receive


def test_a_daphne_that_receives_in_another_way_is_left_as_it_is_and_named(
    monkeypatch: pytest.MonkeyPatch, send: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from daphne.http_protocol import WebRequest

    def other(*args: Any) -> None:
        """Stand in for what a later Daphne may do."""

    monkeypatch.setattr(WebRequest, "requestReceived", other)
    for _ in range(2):
        daphne_requests.install()
    assert WebRequest.requestReceived is other
    (record,) = caplog.records
    assert "Limit the size of request bodies in the proxy" in record.getMessage()


# --- forms ---


@pytest.mark.parametrize("kind", [PlainDaphne, Runserver], ids=lambda kind: kind.__name__)
def test_forms_and_queries_are_parsed_by_django_alone(
    make_plain: Callable[..., PlainDaphne], kind: type[PlainDaphne]
) -> None:
    site = make_plain(kind)

    def post(target: bytes, content_type: bytes, body: bytes) -> Any:
        answer = site.ask(target, (b"Content-Type", content_type), method=b"POST", body=body)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    flood = b"a=&" * 350_000
    assert post(b"/body/?x[1]=2", FORM, flood) == {"length": len(flood), "parsed": []}
    assert post(b"/form/", FORM, b"a=1&b=%C3%A4") == {
        "fields": {"a": "1", "b": "ä"},
        "files": {},
        "parsed": [],
    }
    parts = (
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\n\r\ntext\r\n'
        b"--x--\r\n"
    )
    assert post(b"/form/", b"multipart/form-data; boundary=x", parts) == {
        "fields": {"a": "1"},
        "files": {"f": "text"},
        "parsed": [],
    }


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=\xff",
        b"multipart/form-data; boundary=x",
        b"application/x-www-form-urlencoded; charset=\xff",
        b";;;=",
        b"\xff/\xfe",
    ],
)
def test_what_a_broken_form_is_answered_is_the_views_business(
    shared_plain: PlainDaphne, content_type: bytes
) -> None:
    headers = ((b"Content-Type", content_type),)
    answer = shared_plain.ask(b"/body/", *headers, method=b"POST", body=b"--y\r\n\0%%%")
    assert (answer.status, json.loads(answer.body)) == (200, {"length": 9, "parsed": []})


@pytest.fixture(scope="module")
def shared_plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainDaphne]:
    environment = {"DJANGO_SETTINGS_MODULE": "tests.support.plain"}
    server = PlainDaphne(tmp_path_factory.mktemp("plain"), environment)
    yield server.start()
    server.close()


KEPT = """
from sse_app.operations.reports import streams
requests = [stream._transport._request for stream in streams()]
result = [[each.content.closed, each.application_queue.qsize()] for each in requests]
"""


@pytest.mark.parametrize("size", [1, 90_000, 1_000_000])  # Beyond 100,000 it is a file.
def test_a_body_that_came_with_a_stream_is_not_kept(shared_daphne: Daphne, size: int) -> None:
    connection = Connection(shared_daphne.port)
    try:
        asked = Request(target=b"/events/?group=clock", body=b"x" * size)
        answer = connection.ask(asked, keep=True)
        assert answer is not None
        assert answer.is_stream
        assert run(shared_daphne, KEPT) == [[True, 0]]
    finally:
        connection.close()
    shared_daphne.until_streams(0)
