"""Wrappers around the whole application, as error reporters and tracers document them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..support.servers import eventually
from ..support.sleepers import connect
from .projects import ASGI, Host, Visitor

pytestmark = pytest.mark.project

SENTRY = """
import sentry_sdk
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware

sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", traces_sample_rate=1.0)
application = SentryAsgiMiddleware(application)
"""
OPENTELEMETRY = """
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

application = OpenTelemetryMiddleware(application)
"""
#: A wrapper whose `send` nothing leads from to the server's.
HIDING = """
class Hiding:
    def __init__(self, send):
        self._send = send

    async def send(self, message):
        await self._send(message)


def hide(inner):
    async def wrapped(scope, receive, send):
        await inner(scope, receive, Hiding(send).send)

    return wrapped


application = hide(application)
"""
WRAPPERS = {"Sentry": SENTRY, "OpenTelemetry": OPENTELEMETRY, "both": SENTRY + OPENTELEMETRY}
TRANSPORTS = (
    "from sse_app.operations.reports import streams\n"
    "result = [type(s._transport).__name__ for s in streams()]"
)
STREAMS = "from sse_app.delivery.hub import running_hubs\n"
STREAMS += "result = sum(len(hub.subscriptions) for hub in running_hubs())"
FLOOD = """
from sse_app import publish
for n in range(100):
    publish("orders", "n", "x" * 50_000)
"""
LINES = 'SSE_APP |= {"PUBLIC_GROUPS": ["orders"], "STALL_SECONDS": 0.5}\n'


def start(make_host: Callable[..., Host], wrapper: str) -> Host:
    return make_host(lines=LINES, files={"mysite/asgi.py": ASGI + wrapper})


@pytest.mark.packages("sentry_sdk", "opentelemetry")
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_reader_that_takes_nothing_is_dropped_and_the_stop_is_announced(
    make_host: Callable[..., Host], name: str
) -> None:
    host = start(make_host, WRAPPERS[name])
    with connect(host):
        assert host.run(TRANSPORTS) == ["DaphneTransport"]
        host.run(FLOOD)
        eventually(lambda: host.run(STREAMS) == 0, "the reader is kept")
    with Visitor(host) as visitor, visitor.listen("/events/?group=orders") as stream:
        assert stream.next().name == "sse.open"
        host.stop()
        assert stream.until("sse.close").json() == {"reason": "shutdown"}
    assert "hides Daphne's send" not in host.text()


def test_a_wrapper_that_hides_the_servers_send_is_told_once_with_the_order_that_works(
    make_host: Callable[..., Host],
) -> None:
    host = start(make_host, HIDING)
    with Visitor(host) as visitor:
        for _ in range(2):
            with visitor.listen("/events/?group=orders") as stream:
                assert stream.next().name == "sse.open"
        with visitor.listen("/events/?group=orders") as stream:
            assert stream.next().name == "sse.open"
            assert host.run(TRANSPORTS)[-1] == "AsgiTransport"
            host.stop()
            assert stream.until("sse.close").json() == {"reason": "shutdown"}
    assert host.text().count("event_stream_application(Wrapper(get_asgi_application()))") == 1
