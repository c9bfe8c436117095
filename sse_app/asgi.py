"""The application for a project's `asgi.py`: it routes streams and guards responses."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from django.core.handlers.asgi import ASGIHandler, get_script_prefix

from .access.origins import cors_headers
from .conf import channel_layer, site_tag
from .consumers import ABORT, HEADERS, REQUEST, TAKE_OVER, EventStreamConsumer
from .delivery.hub import Hub
from .delivery.streams import Stream
from .delivery.transports import daphne_requests, servers
from .delivery.transports.asgi import END, END_SECONDS
from .eventlog.retention import retained_patterns
from .operations import processes, shutdown
from .operations.health import answer_health, health
from .protocol.control import busy_block
from .runtime.callables import contained
from .runtime.garbage import collect_rarely
from .runtime.telemetry import COUNTS, count, log_fields
from .runtime.threads import is_serving, serve
from .views.route import view_in_front
from .views.stream import LEAVE, stream

__all__ = ["event_stream_application"]

logger = logging.getLogger("sse_app")

_SECRET: Final = re.compile(rb"(?:(?<=&)|(?<=\?)|\A)(ticket|grant)=[^&]*")
_NAME: Final = "asgi_application (serve it with daphne or another ASGI server, not by WSGI)"
_REDACTED: Final = rb"\1=hidden"


def redact(scope: dict[str, Any], send: Any) -> dict[str, Any]:
    """Return a copy of `scope` for the application; remove secrets from what the server logs.

    A server logs the query string from the scope (uvicorn), or from its own request object, which
    Daphne's `send` leads to. On other servers the log is not changed.
    """
    query = scope.get("query_string", b"")
    if not _SECRET.search(query):
        return scope
    inner = dict(scope)
    scope["query_string"] = _SECRET.sub(_REDACTED, query)
    request: Any = next(iter(getattr(send, "args", ())), None)
    uri = getattr(request, "uri", None)
    if isinstance(uri, bytes):
        request.uri = _SECRET.sub(_REDACTED, uri)
    return inner


Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Any, Any], Awaitable[None]]


def event_stream_application(
    application: Application, consumer: Application | None = None
) -> Application:
    """Return an application that serves the streams, and passes all else to `application`.

    `application` is usually Django's. The URL of the streams is the route `sse_app:stream` of
    Django's URL configuration, with and without its last slash. `consumer` is by default
    `EventStreamConsumer.as_asgi()`. Raises `ImproperlyConfigured` if the channel layer is missing,
    or if `SITE_TAG` or `RETAIN` is invalid.
    """
    channel_layer()
    site_tag()
    retained_patterns()
    streams = guard(consumer or EventStreamConsumer.as_asgi(), busy=True)
    ready = guard(answer_health, busy=False)
    rest = guard(application, busy=False)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        daphne_requests.correct(scope, servers.own_send(send))
        if scope["type"] == "websocket" and isinstance(application, ASGIHandler):
            # Django would raise: a 500, and a traceback in the log for each such request.
            await send({"type": "websocket.close"})
        elif scope["type"] == "lifespan" and isinstance(application, ASGIHandler):
            await shutdown.lifespan(receive, send)
        elif scope["type"] != "http":
            await application(scope, receive, send)
        elif (view := view_of(scope)) is health and scope["method"] in ("GET", "HEAD"):
            await ready(scope, receive, send)
        else:
            # A copy: `redact()` changes the server's scope while `rest` answers.
            asked = scope if view is stream else dict(scope)
            if view is stream or await rest(scope, receive, send):
                streaming = streams(asked, receive, send)
                del scope, asked, receive  # As in `guard()`.
                await streaming

    # A WSGI server calls the application with two arguments, and Python's error has this name.
    serve.__qualname__ = _NAME
    return serve


def is_stream(scope: Scope) -> bool:
    """Whether the request is for the route `sse_app:stream`."""
    return view_of(scope) is stream


def view_of(scope: Scope) -> Any:
    """Return the view of the app that answers this request in front of Django, None without one."""
    return view_in_front(scope["path"].removeprefix(get_script_prefix(scope)))


def guard(application: Application, *, busy: bool) -> Callable[[Scope, Any, Any], Awaitable[bool]]:
    """Return `application` so that no exception escapes once its response has started.

    Such an exception ends Daphne's loop over finished applications, and so every later clean-up
    of the process. The response always ends with its last chunk. `busy`: an exception before the
    start gives the client `sse.busy`, since browsers do not reconnect after a 500.

    The result of a call is whether the application left the request to the consumer: then nothing
    was sent. A middleware may choose another URLconf or language than `view_of()` sees, and so
    Django's handler gets to the view of the stream.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> bool:
        response = Response(send)
        try:
            await response.begin(application, scope, receive, busy=busy)
            # Free the memory: a stream lives long and does not need the large scope.
            del scope, receive
        finally:
            await response.end()
        return response.is_left

    return guarded


class Response:
    """One guarded response: whether it has started and ended, and the stream it serves, if any."""

    def __init__(self, send: Send) -> None:
        self._send, self._own = send, servers.own_send(send)
        self._started = self._ended = self.is_left = False
        self._stream: Stream | None = None

    async def begin(
        self, application: Application, scope: Scope, receive: Receive, *, busy: bool
    ) -> None:
        """Run the application; if it hands over a stream, `end()` serves the stream."""
        shutdown.install(self._own)
        processes.begin(self._own)
        if not is_serving() and servers.is_served(self._own):
            serve()
            collect_rarely()
        inner = self._inner_scope(scope)
        if busy and REQUEST not in inner["extensions"]:
            servers.warn_if_hidden(self._own)
        try:
            if busy:
                with contained():
                    await application(inner, receive, self._sending)
            else:
                await self._run(application, inner, receive)
        except Exception as error:
            self._close("error")
            if not (busy or self._started):
                raise
            logger.exception(
                "An exception ended the response to %s.",
                scope["path"],
                extra=log_fields(error=error),
            )
            if not self._started:
                await self._send_busy(scope)
        except BaseException:
            self._close("shutdown")
            raise

    async def _run(self, application: Application, scope: Scope, receive: Receive) -> None:
        """Run the application; if it is cancelled because the server stops, let it finish first.

        Daphne cancels all applications when it stops. A cancelled Django only waits for the thread
        of its sync view: the view's answer would be lost, and the task that would have sent it
        stays pending. An application that needs more than `CLOSE_SECONDS` is cancelled by
        `shutdown.end_tasks()`.
        """

        async def run() -> None:
            with contained():
                await application(scope, receive, self._sending)

        task = asyncio.create_task(run())
        shutdown.unanswered.add(self)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if not Hub.draining:
                task.cancel()
            elif not self._started:
                await asyncio.wait([task], timeout=shutdown.CLOSE_SECONDS)
            if Hub.draining and not task.done():
                raise
            await task
        finally:
            shutdown.unanswered.discard(self)

    async def end(self) -> None:
        """Serve the stream, if there is one, and always end the response."""
        try:
            if self._stream is not None:
                await self._stream.run()
        except Exception as error:
            logger.exception("An exception ended a stream.", extra=log_fields(error=error))
        finally:
            if self._started and not self._ended:
                try:
                    async with asyncio.timeout(END_SECONDS):
                        await self._sending(dict(END))
                except Exception as error:
                    logger.debug(
                        "The response could not be ended: %r", error, extra=log_fields(error=error)
                    )

    def _inner_scope(self, scope: Scope) -> Scope:
        """Return the scope for the application, with what leads to the server as extensions.

        The application may wrap `send`, and then can't find the server's objects from there.
        """
        inner = redact(scope, self._own)
        found = {
            REQUEST: servers.daphne_request(self._own),
            ABORT: servers.abort_of(self._own, scope),
            TAKE_OVER: self._take_over,
            LEAVE: self._leave,
        }
        extensions = {name: value for name, value in found.items() if value is not None}
        return {**inner, "extensions": {**(inner.get("extensions") or {}), **extensions}}

    async def _send_busy(self, scope: Scope) -> None:
        count(COUNTS.refused, "error")
        headers = [*HEADERS, *cors_headers(scope)]
        await self._sending({"type": "http.response.start", "status": 200, "headers": headers})
        body = {"type": "http.response.body", "body": busy_block("error"), "more_body": True}
        await self._sending(body)

    def _take_over(self, stream: Stream) -> None:
        self._stream = stream

    def _leave(self) -> None:
        self.is_left = not self._started

    def _close(self, reason: str) -> None:
        if self._stream is not None:
            self._stream.close(reason)

    async def _sending(self, message: dict[str, Any]) -> None:
        if self._ended or self.is_left:
            return
        if message["type"] == "http.response.start":
            self._started = True
            shutdown.unanswered.discard(self)
        self._ended = message["type"] == "http.response.body" and not message.get("more_body")
        await self._send(message)
