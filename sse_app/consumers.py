"""`EventStreamConsumer`: one HTTP GET becomes a stream.

The order is: authorize, join the hub, send `sse.open`, replay from the log, live events. Since the
hub is joined before the replay, no event is lost between the replay and the live events.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from io import BytesIO
from typing import Any, ClassVar, Final, NamedTuple

from channels.generic.http import AsyncHttpConsumer
from django.conf import settings as django_settings
from django.contrib.sessions.backends.base import SessionBase
from django.core.handlers.asgi import ASGIRequest
from django.db import DatabaseError

from .access import authorization, readers
from .access.addresses import client_address
from .access.admission import Busy, Expired, admit, flag_of, names_of
from .access.control_group import ControlGroup, read_control_position
from .access.limits import LIMITS, LimitReached
from .access.origins import SECURITY_HEADERS, check, cors_headers, preflight
from .access.readers import Reader
from .access.refusals import Refused
from .access.sessions import session_of
from .conf import settings
from .delivery.hub import get_hub
from .delivery.replay import Start, StartRequest, find_start
from .delivery.streams import Stream
from .delivery.transports.asgi import AsgiTransport, Receive, Send, Transport
from .delivery.transports.daphne import DaphneTransport
from .protocol.control import busy_block, closing_block
from .protocol.cursors import Position
from .protocol.groups import Group, own_name, validate_group
from .protocol.headers import CONTENT_TYPE, NO_CACHE
from .runtime.rare_logs import RareLog
from .runtime.telemetry import COUNTS, count, log_fields

__all__ = ["EventStreamConsumer"]

logger = logging.getLogger("sse_app")
_log_failed = RareLog(logger)

#: Extensions of the scope that the guard in `asgi` sets: Daphne's request, a function that aborts
#: the connection, and a function that takes over a stream.
REQUEST: Final = "sse_app.daphne"
ABORT: Final = "sse_app.abort"
TAKE_OVER: Final = "sse_app.take_over"
_WAIT: Final = re.compile(r"(?:[1-9]|[1-5]\d|60)\Z", re.ASCII)
METHODS: Final = ("GET", "HEAD", "OPTIONS")
HEADERS: Final = (
    (b"Content-Type", CONTENT_TYPE.encode()),
    *((name.encode(), value.encode()) for name, value in NO_CACHE.items()),
    *SECURITY_HEADERS,
)


class _Options(NamedTuple):
    """The event names that a request filters by, its flags, and its `wait`; see `Stream`."""

    names: tuple[str, ...]
    ping: bool
    labelled: bool
    wait: int | None


class EventStreamConsumer(AsyncHttpConsumer):
    """Streams the events of the groups that the request names, or of `groups` if given.

    `EventStreamConsumer.as_asgi(groups=["orders"])` serves these groups to every client that
    reaches the URL. Subclasses override `authorize()`. The consumer has its own host check,
    session and user, since no Django middleware runs before a consumer.
    """

    groups: ClassVar[Collection[Group]] = ()

    def __init__(self, *args: Any, groups: Iterable[Group] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fixed_groups = _valid(groups or self.groups)

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> Any:
        """Return the application; raises `ValueError` for `groups` that are not valid names."""
        _valid(initkwargs.get("groups") or cls.groups)  # Now, and not at the first request.
        return super().as_asgi(**initkwargs)

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Receive,
        send: Send,
    ) -> None:
        # Replaces Channels' dispatch loop, which handles no message while a handler runs, and
        # switches threads for each message.
        self.scope = scope
        self.base_send = send
        try:
            since = readers.revocation_count()
            reader, wanted, position = await self._admit(receive)
            await self._open(reader, wanted, since, position)
        except Refused as refused:
            if refused.status >= 400:
                count(COUNTS.refused, str(refused.status))
            await self._answer(refused)
        except (LimitReached, Busy, Expired) as error:
            count(COUNTS.refused, str(error))
            reason, hint = str(error), ""
            if django_settings.DEBUG and isinstance(error.__cause__, DatabaseError):
                hint = str(error.__cause__)  # For example that the tables are missing.
            expired = isinstance(error, Expired)
            block = (
                closing_block(reason, retry=settings().RETRY)
                if expired
                else busy_block(reason, hint)
            )
            await self._end_at_once(block)
        else:
            take_over = self._extensions.get(TAKE_OVER)
            if take_over is None:
                await reader.stream.run()
            else:
                take_over(reader.stream)

    async def authorize(self, user: Any, groups: Collection[str], request: ASGIRequest) -> bool:
        """Return whether `user` may listen to `groups`; always true for groups of `as_asgi()`.

        Only `True` grants the right.
        """
        return bool(self.fixed_groups) or await authorization.may_listen(user, groups, request)

    # --- before the stream ---

    async def _admit(self, receive: Receive) -> tuple[Reader, StartRequest, Position]:
        """Return a reader, where its stream begins, and a position in the control group.

        The position was read before the user, so every later revocation comes after it. No result
        refers to the request: it is larger than all other state of a stream.
        """
        request = self._request()
        options = self._checked(request)
        address = client_address(self.scope)
        key = request.COOKIES.get(django_settings.SESSION_COOKIE_NAME)
        slots = await LIMITS.admit(address, key)
        try:
            position = await _control_position()
            access = await admit(request, self._may_listen, self.fixed_groups)
            await slots.identify(access.user)
            wanted, life = StartRequest.of(request), _life(access.groups)
            stream = Stream(
                transport=self.make_transport(receive),
                groups=access.groups,
                user=access.user,
                user_key=access.user_key,
                until=access.until,
                sender=type(self),
                address=address.text,
                life=life,
                **options._asdict(),
                # Last: if another argument raised now, no stream would leave and close the hub.
                hub=get_hub(),
            )
            return Reader(stream, access, slots), wanted, position
        except BaseException:
            slots.release()
            raise

    def _request(self) -> ASGIRequest:
        return ASGIRequest(self.scope, BytesIO())

    def _checked(self, request: ASGIRequest) -> _Options:
        """Return what the stream is to show.

        Raises `Refused` for errors found without a database, and for `HEAD` and `OPTIONS`.
        """
        if request.method not in METHODS:
            raise Refused(405, f"{request.method} is not possible here: {', '.join(METHODS)}.")
        check(request)
        if request.method != "GET":
            raise Refused(200 if request.method == "HEAD" else 204, "")
        names = names_of(request)  # First: it refuses a query that can't be parsed.
        ping, labelled = flag_of(request, "ping"), flag_of(request, "label")
        return _Options(names, ping, labelled, _wait_of(request))

    async def _may_listen(
        self, user: Any, groups: Collection[str], request: ASGIRequest | None
    ) -> bool:
        if request is None:  # An open stream is checked again.
            request = self._request()
            by_ticket = "ticket" in request.GET and not self.fixed_groups
            request.session = SessionBase() if by_ticket else session_of(request)
        request.user = user
        groups = [*map(own_name, groups)]
        if not self._has_own_policy and (
            self.fixed_groups or authorization.is_granted(user, groups)
        ):
            return True
        return await authorization.ask(self._policy, self.authorize, user, groups, request)

    @property
    def _has_own_policy(self) -> bool:
        return type(self).authorize is not EventStreamConsumer.authorize

    @property
    def _policy(self) -> str:
        """The dotted path of the policy, for the log."""
        named = None if self._has_own_policy else settings().MAY_LISTEN
        return named or authorization.method_of(self, "authorize")

    # --- the stream ---

    async def _open(
        self, reader: Reader, wanted: StartRequest, since: int, position: Position
    ) -> None:
        stream = reader.stream
        try:
            if not readers.enter(reader, since):
                raise Busy("revoked")  # Revoked while the request was being admitted.
            start = await self._join(reader, wanted, position)
            await self.send_headers(headers=self._headers())
            await stream.open(start)
        except BaseException as error:
            stream.close("shutdown" if isinstance(error, asyncio.CancelledError) else "error")
            await stream.end()
            raise

    async def _join(self, reader: Reader, wanted: StartRequest, position: Position) -> Start:
        stream = reader.stream
        if stream.hub.draining:
            raise Busy("shutdown")
        try:
            await stream.hub.join(stream.subscription)
            missed = await stream.hub.service(ControlGroup).missed(position)
            start = await find_start(stream.hub, stream.groups, wanted)
        except Exception as error:
            _log_failed(
                "The event log did not answer: %r",
                error,
                extra=log_fields(stream=stream.id, groups=stream.groups, error=error),
            )
            raise Busy("log") from error
        if not readers.apply_missed(reader, missed):
            raise Busy("revoked")
        return start

    def make_transport(self, receive: Receive) -> Transport:
        """Return the transport of this response: for Daphne, or for any ASGI server."""
        request = self._extensions.get(REQUEST)
        if request is not None:
            return DaphneTransport(self.base_send, receive, request)
        return AsgiTransport(self.base_send, receive, self._extensions.get(ABORT))

    @property
    def _extensions(self) -> Mapping[str, Any]:
        return self.scope.get("extensions") or {}

    # --- answers without a stream ---

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [*HEADERS, *cors_headers(self.scope)]

    async def _answer(self, refused: Refused) -> None:
        status, text = refused.status, str(refused)
        if refused.hint and django_settings.DEBUG:
            text = f"{text} (This is shown while DEBUG is on: {refused.hint})"
        headers = list(HEADERS[1:])
        headers += [(name.encode(), value.encode()) for name, value in refused.headers.items()]
        if status == 200:
            headers.insert(0, HEADERS[0])
        elif text:
            headers.append((b"Content-Type", b"text/plain; charset=utf-8"))
        if status in (204, 405):
            headers.append((b"Allow", ", ".join(METHODS).encode()))
        headers += (preflight if status == 204 else cors_headers)(self.scope)
        await self.send_response(status, text.encode(), headers=headers)

    async def _end_at_once(self, block: bytes) -> None:
        await self.send_response(200, block, headers=self._headers())


def _wait_of(request: ASGIRequest) -> int | None:
    """Return the parameter `wait`: seconds after which the response ends; raises `Refused`."""
    given = request.GET.getlist("wait")
    if not given:
        return None
    if len(given) > 1 or not _WAIT.match(given[0]):
        raise Refused(400, f"wait={','.join(given)[:80]} is not a whole number from 1 to 60.")
    return int(given[0])


def _valid(groups: Iterable[Group]) -> tuple[str, ...]:
    if isinstance(groups, Group):
        raise ValueError(f"groups={groups!r} is one group: write a list, groups=[{groups!r}].")
    return tuple(validate_group(group) for group in groups)


async def _control_position() -> Position:
    try:
        return await read_control_position()
    except Exception as error:
        _log_failed("The event log did not answer: %r", error, extra=log_fields(error=error))
        raise Busy("log") from error


def _life(groups: Collection[str]) -> float:
    public = authorization.is_public(groups)
    return settings().PUBLIC_STREAM_LIFE if public else settings().STREAM_LIFE
