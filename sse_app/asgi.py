"""Wiring for `asgi.py`: which requests are streams, and the outermost guard around everything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from django.core.handlers.asgi import ASGIHandler
from django.urls import Resolver404, resolve

from . import layer, secrecy, servers, shutdown
from .consumers import ABORT, HEADERS, REQUEST, EventStreamConsumer, busy_block
from .origins import cors_headers
from .transports import END, END_SECONDS

logger = logging.getLogger("sse_app")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Any, Any], Awaitable[None]]


def event_stream_application(
    application: Application, consumer: Application | None = None
) -> Application:
    """Return `application`, usually Django's, with the streams served beside it.

    The URL is the route `sse_app:stream` of Django's URL configuration, with and without its
    last slash. `consumer` is by default `EventStreamConsumer.as_asgi()`. Raises
    `ImproperlyConfigured` if the channel layer is missing.
    """
    layer.channel_layer()
    streams = guard(consumer or EventStreamConsumer.as_asgi(), busy=True)
    rest = guard(application, busy=False)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and isinstance(application, ASGIHandler):
            # Django raises, and whoever asks would get a 500 and a traceback into the log.
            await send({"type": "websocket.close"})
        elif scope["type"] == "lifespan" and isinstance(application, ASGIHandler):
            await shutdown.lifespan(receive, send)
        elif scope["type"] != "http":
            await application(scope, receive, send)
        elif is_stream(scope):
            await streams(scope, receive, send)
        else:
            await rest(scope, receive, send)

    return serve


def is_stream(scope: Scope) -> bool:
    """Whether the request is for the route `sse_app:stream`."""
    from .views import stream

    path = scope["path"].removeprefix(scope.get("root_path", ""))
    for candidate in (path,) if path.endswith("/") else (path, f"{path}/"):
        try:
            return resolve(candidate).func is stream
        except Resolver404:
            continue
    return False


def guard(application: Application, *, busy: bool) -> Application:
    """Return `application` with no exception escaping once its response has started.

    Daphne's loop over finished applications dies of such an exception, and with it every later
    clean-up of the process. Whatever happens, the response ends with its last chunk. `busy`:
    before the start, too, the client gets `sse.busy` and not a 500, after which browsers
    would not come back.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        started = ended = False

        async def sending(message: dict[str, Any]) -> None:
            nonlocal started, ended
            if ended:
                return
            started = started or message["type"] == "http.response.start"
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        shutdown.install(send)
        scope = secrecy.hide(scope, send)
        # Here, since what is inside wraps `send`, and nothing leads from there to the server.
        found = {REQUEST: servers.daphne_request(send), ABORT: servers.abort_of(send, scope)}
        extensions = {name: value for name, value in found.items() if value is not None}
        scope = {**scope, "extensions": {**(scope.get("extensions") or {}), **extensions}}
        try:
            await application(scope, receive, sending)
        except Exception:
            if not (busy or started):
                raise
            logger.exception("An exception ended the response to %s.", scope["path"])
            if not started:
                headers = [*HEADERS, *cors_headers(scope)]
                await sending({"type": "http.response.start", "status": 200, "headers": headers})
                await sending(
                    {
                        "type": "http.response.body",
                        "body": busy_block("error"),
                        "more_body": True,
                    }
                )
        finally:
            if started and not ended:
                try:
                    async with asyncio.timeout(END_SECONDS):
                        await sending(dict(END))
                except Exception as error:
                    logger.debug("The response could not be ended: %r", error)

    return guarded
