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
from .protocol.control import busy_block
from .runtime.callables import contained
from .runtime.garbage import collect_rarely
from .runtime.telemetry import COUNTS, count, log_fields
from .runtime.threads import is_serving, serve

__all__ = ["event_stream_application"]

logger = logging.getLogger("sse_app")

_SECRET: Final = re.compile(rb"(?:(?<=&)|(?<=\?)|\A)(ticket|grant)=[^&]*")
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
    rest = guard(application, busy=False)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        daphne_requests.correct(scope, send)
        if scope["type"] == "websocket" and isinstance(application, ASGIHandler):
            # Django would raise: a 500, and a traceback in the log for each such request.
            await send({"type": "websocket.close"})
        elif scope["type"] == "lifespan" and isinstance(application, ASGIHandler):
            await shutdown.lifespan(receive, send)
        elif scope["type"] != "http":
            await application(scope, receive, send)
        elif is_stream(scope):
            streaming = streams(scope, receive, send)
            del scope, receive  # As in `guard()`.
            await streaming
        else:
            await rest(scope, receive, send)

    return serve


def is_stream(scope: Scope) -> bool:
    """Whether the request is for the route `sse_app:stream`."""
    from .views.route import is_stream_path

    return is_stream_path(scope["path"].removeprefix(get_script_prefix(scope)))


def guard(application: Application, *, busy: bool) -> Application:
    """Return `application` so that no exception escapes once its response has started.

    Such an exception ends Daphne's loop over finished applications, and so every later clean-up
    of the process. The response always ends with its last chunk. `busy`: an exception before the
    start gives the client `sse.busy`, since browsers do not reconnect after a 500.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        response = Response(send)
        try:
            await response.begin(application, scope, receive, busy=busy)
            # Free the memory: a stream lives long and does not need the large scope.
            del scope, receive
        finally:
            await response.end()

    return guarded


class Response:
    """One guarded response: whether it has started and ended, and the stream it serves, if any."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = self._ended = False
        self._stream: Stream | None = None

    async def begin(
        self, application: Application, scope: Scope, receive: Receive, *, busy: bool
    ) -> None:
        """Run the application; if it hands over a stream, `end()` serves the stream."""
        shutdown.install(self._send)
        processes.begin(self._send)
        if not is_serving() and servers.is_served(self._send):
            serve()
            collect_rarely()
        inner = self._inner_scope(scope)
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
        inner = redact(scope, self._send)
        found = {
            REQUEST: servers.daphne_request(self._send),
            ABORT: servers.abort_of(self._send, scope),
            TAKE_OVER: self._take_over,
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

    def _close(self, reason: str) -> None:
        if self._stream is not None:
            self._stream.close(reason)

    async def _sending(self, message: dict[str, Any]) -> None:
        if self._ended:
            return
        if message["type"] == "http.response.start":
            self._started = True
            shutdown.unanswered.discard(self)
        self._ended = message["type"] == "http.response.body" and not message.get("more_body")
        await self._send(message)
