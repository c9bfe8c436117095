"""The ways in which projects put their application together, for the site of
`tests.support.plain`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from django.urls import re_path
from twisted.web import http

from .plain import PARSED, SOCKETS

django_application = get_asgi_application()

from sse_app.asgi import event_stream_application  # noqa: E402 - it needs the loaded apps
from sse_app.routing import event_stream_urlpatterns  # noqa: E402


def _noted(name: str) -> Callable[..., Any]:
    parse = getattr(http, name)

    def parse_and_note(*args: Any, **options: Any) -> Any:
        PARSED.append(name)
        return parse(*args, **options)

    return parse_and_note


for _name in ("parse_qs", "_getMultiPartArgs"):
    setattr(http, _name, _noted(_name))


async def _socket(scope: Any, receive: Any, send: Any) -> None:
    SOCKETS.append(scope["root_path"])
    await send({"type": "websocket.close"})


async def under_middleware(scope: Any, receive: Any, send: Any) -> None:
    """Hide the server's `send`, as error reporters and profilers do."""

    async def own_send(message: Any) -> None:
        await send(message)

    await wrapped(scope, receive, own_send)


wrapped = event_stream_application(
    ProtocolTypeRouter({"http": django_application, "websocket": _socket})
)
_routes: list[Any] = [*event_stream_urlpatterns(), re_path("", django_application)]
by_hand = ProtocolTypeRouter({"http": URLRouter(_routes), "websocket": _socket})


def __getattr__(name: str) -> Any:
    # Made only for the server that asks for it, since it reads `STATIC_URL`.
    if name == "under_static_files":
        return ASGIStaticFilesHandler(wrapped)
    raise AttributeError(name)
