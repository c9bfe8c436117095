"""`EventStreamConsumer`: one HTTP GET becomes a stream.

Authorize, join the hub, `sse.open`, replay from the log, live: in this order, so that nothing
can fall between the replay and what is live.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterable
from importlib import import_module
from io import BytesIO
from typing import Any, ClassVar, Final

from channels.db import database_sync_to_async
from channels.generic.http import AsyncHttpConsumer
from django.conf import settings as django_settings
from django.contrib.auth import get_user
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest

from . import authorization, signals
from .conf import settings
from .events import encode_control, validate_name
from .groups import validate_group
from .hub import Hub, get_hub
from .replay import Start, Wanted, find_start
from .streams import Stream
from .transports import AsgiTransport, Transport

logger = logging.getLogger("sse_app")

BUSY_RETRY: Final = (15.0, 60.0)
METHODS: Final = ("GET", "HEAD", "OPTIONS")
HEADERS: Final = (
    (b"Content-Type", b"text/event-stream; charset=utf-8"),
    (b"Cache-Control", b"no-cache, no-store, private, no-transform"),
    (b"X-Accel-Buffering", b"no"),
    (b"X-Content-Type-Options", b"nosniff"),
)


class Refused(Exception):
    """A request that gets an answer and no stream."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Busy(Exception):
    """A request that can't be served now and shall come again; `reason` goes to the client."""


class EventStreamConsumer(AsyncHttpConsumer):
    """Streams the events of the groups that the request names, or of `groups` if given.

    `EventStreamConsumer.as_asgi(groups=["orders"])` serves these groups to everybody who reaches
    it: whoever mounts it so has decided who may. Subclasses override `authorize()`. It brings
    its own host check, session and user, as no Django middleware runs before a consumer.
    """

    groups: ClassVar[Collection[str]] = ()

    def __init__(self, *args: Any, groups: Iterable[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fixed_groups = tuple(validate_group(group) for group in groups or self.groups)

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        # In place of Channels' dispatch loop, which answers nothing while a handler runs, and
        # costs a thread hop per message.
        self.scope = scope
        self.base_send = send
        try:
            request = self._accept(ASGIRequest(scope, BytesIO()))
            if request is None:
                return
            wanted = self.fixed_groups or _groups_of(request)
            names = _names_of(request)
            await self._identify(request)
            await self._authorize(request, wanted)
            await self._stream(request, receive, wanted, names)
        except Refused as refused:
            await self._answer(refused.status, refused.text)
        except Busy as busy:
            await self._refuse_for_now(str(busy))

    async def authorize(self, user: Any, groups: Collection[str], request: ASGIRequest) -> bool:
        """Return whether `user` may listen to `groups`; groups given to `as_asgi()` always."""
        return bool(self.fixed_groups) or await authorization.may_listen(user, groups, request)

    # --- before the stream ---

    def _accept(self, request: ASGIRequest) -> ASGIRequest | None:
        """Refuse what needs no database to be refused."""
        if request.method not in METHODS:
            raise Refused(405, f"{request.method} is not possible here: {', '.join(METHODS)}.")
        try:
            request.get_host()
        except DisallowedHost as error:
            raise Refused(400, "The Host header is not one of ALLOWED_HOSTS.") from error
        if request.method == "GET":
            return request
        raise Refused(200 if request.method == "HEAD" else 204, "")

    async def _identify(self, request: ASGIRequest) -> None:
        """Give the request its session and user, by one query only if it has a session cookie."""
        if "user" in self.scope and "session" in self.scope:
            request.session = self.scope["session"]
            request.user = self.scope["user"]
            return
        engine = import_module(django_settings.SESSION_ENGINE)
        key = request.COOKIES.get(django_settings.SESSION_COOKIE_NAME)
        request.session = engine.SessionStore(key)
        if key is None:
            from django.contrib.auth.models import AnonymousUser

            request.user = AnonymousUser()
            return
        try:
            request.user = await database_sync_to_async(get_user)(request)
        except Exception as error:
            logger.warning("The session store did not answer: %r", error)
            raise Busy("session") from error

    async def _authorize(self, request: ASGIRequest, wanted: Collection[str]) -> None:
        try:
            allowed = await self.authorize(request.user, wanted, request)
        except Exception as error:
            logger.exception("The policy that decides who may listen failed.")
            raise Busy("policy") from error
        if not allowed:
            logger.info(
                "Refused %s the groups %s: add them to SSE_APP['PUBLIC_GROUPS'] or let "
                "SSE_APP['MAY_LISTEN'] permit them.",
                request.user,
                ", ".join(wanted),
            )
            raise Refused(403, "Not permitted.")

    # --- the stream ---

    async def _stream(
        self,
        request: ASGIRequest,
        receive: Callable[[], Awaitable[dict[str, Any]]],
        wanted: Collection[str],
        names: Collection[str],
    ) -> None:
        hub = get_hub()
        transport = self.make_transport()
        stream = Stream(
            transport,
            wanted,
            names,
            user=request.user,
            address=request.META.get("REMOTE_ADDR", ""),
            ping=request.GET.get("ping") == "1",
            life=_life(wanted),
        )
        watching = asyncio.ensure_future(_until_disconnect(receive, stream))
        opened = False
        try:
            start = await self._join(hub, stream, request)
            await self.send_headers(headers=list(HEADERS))
            opened = True
            await self._serve(hub, stream, start)
        except asyncio.CancelledError:
            # The server is stopping and cancels once: what `finally` awaits still runs.
            stream.subscription.close("shutdown")
            raise
        finally:
            watching.cancel()
            hub.tickers.discard(stream.tick)
            try:
                if opened:
                    stream.farewell()
                    await transport.finish()
            finally:
                await hub.leave(stream.subscription)
                if opened:
                    await signals.stream_closed.asend_robust(sender=type(self), stream=stream)

    def make_transport(self) -> Transport:
        """Return the transport of this response."""
        return AsgiTransport(self.base_send)

    async def _join(self, hub: Hub, stream: Stream, request: ASGIRequest) -> Start:
        if hub.draining:
            raise Busy("shutdown")
        try:
            await hub.join(stream.subscription)
            return await find_start(hub, stream.groups, Wanted.by(request))
        except Exception as error:
            logger.warning("The event log did not answer: %r", error)
            raise Busy("log") from error

    async def _serve(self, hub: Hub, stream: Stream, start: Start) -> None:
        stream.start_at(start.positions)
        stream.open(recovered=start.recovered, missed=start.missed)
        for group, (reason, head) in start.resets.items():
            stream.subscription.begin_with_reset(group, reason, head)
        hub.tickers.add(stream.tick)
        await signals.stream_opened.asend_robust(sender=type(self), stream=stream)
        await stream.subscription.run(hub)

    # --- answers that are no stream ---

    async def _answer(self, status: int, text: str) -> None:
        headers = list(HEADERS[1:])
        if status == 200:
            headers.insert(0, HEADERS[0])
        elif text:
            headers.append((b"Content-Type", b"text/plain; charset=utf-8"))
        if status in (204, 405):
            headers.append((b"Allow", ", ".join(METHODS).encode()))
        await self.send_response(status, text.encode(), headers=headers)

    async def _refuse_for_now(self, reason: str) -> None:
        await self.send_response(200, busy_block(reason), headers=list(HEADERS))


def busy_block(reason: str) -> bytes:
    """Return the body that asks a client to come again: browsers give up for good on a 503."""
    return encode_control("sse.busy", {"reason": reason}, retry=random.uniform(*BUSY_RETRY))


async def _until_disconnect(
    receive: Callable[[], Awaitable[dict[str, Any]]], stream: Stream
) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.subscription.close("disconnect")


def _groups_of(request: ASGIRequest) -> tuple[str, ...]:
    groups = tuple(dict.fromkeys(request.GET.getlist("group")))
    most = settings().MAX_GROUPS
    if not groups:
        raise Refused(400, "Name the groups to listen to, for example ?group=orders.")
    if len(groups) > most:
        raise Refused(400, f"{len(groups)} groups are more than a stream can have: {most}.")
    try:
        return tuple(validate_group(group) for group in groups)
    except ValueError as error:
        raise Refused(400, str(error)) from error


def _names_of(request: ASGIRequest) -> tuple[str, ...]:
    try:
        return tuple(validate_name(name) for name in request.GET.getlist("event"))
    except ValueError as error:
        raise Refused(400, str(error)) from error


def _life(groups: Collection[str]) -> float:
    public = authorization.is_public(groups)
    return settings().PUBLIC_STREAM_LIFE if public else settings().STREAM_LIFE
