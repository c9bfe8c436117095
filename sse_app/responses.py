"""`EventStreamResponse`: a one-off stream without groups, from an ordinary async view."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from django.http import HttpRequest, StreamingHttpResponse

from .conf import settings
from .protocol.control import closing_block
from .protocol.events import HEARTBEAT, encode_control, to_text, validate_id, validate_name
from .protocol.headers import CONTENT_TYPE, NO_CACHE, last_event_id
from .runtime.callables import contained
from .runtime.telemetry import log_fields

__all__ = ["Close", "EventStreamResponse"]

logger = logging.getLogger("sse_app")

#: `GZipMiddleware` and its like leave such a response alone. They would compress each event by
#: itself, and browsers show the first of several compressed parts only.
NOT_COMPRESSED: Final = {"Content-Encoding": "identity"}
#: Called with `after=`: the id of the client's last event, or "".
Resumable = Callable[..., AsyncIterable[Any]]


@dataclass(frozen=True)
class Close:
    """An iterable yields it to send `sse.close` with the reason and end the stream.

    The reasons, and when a browser reconnects after each, are the same as for other streams.
    """

    reason: str


class EventStreamResponse(StreamingHttpResponse):
    """Streams the items of `events`: `(event, data)`, `(event, data, id)`, data alone, or `Close`.

    `events`: an async iterable. To resume, a callable that gets `after=` and returns an async
    iterable; it needs the `request`. `after` is the id of the client's last event
    (`Last-Event-ID`, else `?last_event_id=`, else `?lastEventId=`), "" without a valid id. The
    client chooses it: it may be any visible ASCII of at most 1 KiB.

    The wire format, headers and heartbeat are the same as for other streams. A `str` is sent
    unchanged, all else as JSON. When the iterable ends, the client gets `sse.close` with the
    reason "end" and does not reconnect for an hour. An exception in the iterable is logged, since
    the response has started; the client gets the reason "error" and reconnects soon, with the last
    id. When the client disconnects, the pending `__anext__()` is cancelled immediately and the
    iterable is closed. One task iterates and closes it, so `async with asyncio.timeout(…)` and the
    like may surround a `yield`. An item is read once the one before it has been sent.

    Raises `TypeError` for a callable without a request, and for `events` that is not iterable.
    """

    def __init__(
        self,
        events: AsyncIterable[Any] | Resumable,
        request: HttpRequest | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("content_type", CONTENT_TYPE)
        iterable = _iterable(events, request)
        if request is not None and request.method == "HEAD":
            iterable = _nothing()  # The answer has no body, and `events` might never end.
        super().__init__(_blocks(iterable), **kwargs)
        for name, value in {**NO_CACHE, **NOT_COMPRESSED}.items():
            self[name] = value
        self["X-Content-Type-Options"] = "nosniff"


def _iterable(
    events: AsyncIterable[Any] | Resumable, request: HttpRequest | None
) -> AsyncIterable[Any]:
    if not isinstance(events, AsyncIterable):
        if not callable(events) or request is None:
            raise TypeError(
                f"EventStreamResponse() takes an async iterable, or a callable and the request "
                f"that says where to resume; not {events!r} with the request {request!r}."
            )
        events = events(after=_last_id(request))
        if not isinstance(events, AsyncIterable):
            raise TypeError(f"{events!r} is not an async iterable: write an async generator.")
    return events


def _last_id(request: HttpRequest) -> str:
    try:
        return validate_id(last_event_id(request))
    except ValueError:
        return ""  # No id, or an invalid one.


async def _blocks(events: AsyncIterable[Any]) -> AsyncIterator[bytes]:
    wanted = asyncio.Queue[asyncio.Future[Any]]()
    task = asyncio.create_task(_iterate(aiter(events), wanted))
    # A browser keeps the `retry:` of an hour that an earlier `sse.close` set: set it back.
    id, retry = "", _retry()
    try:
        while True:
            slot = asyncio.get_running_loop().create_future()
            wanted.put_nowait(slot)
            while not await _done(slot, task):
                yield HEARTBEAT
            if not slot.done():
                task.result()  # Raises the iterable's error.
                yield closing_block("end", id, retry=settings().RETRY)
                break
            item = slot.result()
            if isinstance(item, Close):
                yield closing_block(item.reason, id, retry=settings().RETRY)
                break
            name, data, own = _parts(item)
            yield encode_control(name, data, id=own, retry=retry)
            id, retry = own or id, None
    except Exception:
        logger.exception(
            "An event stream's iterable failed; the stream ends here.", extra=log_fields()
        )
        yield closing_block("error", id, retry=settings().RETRY)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def _iterate(
    iterator: AsyncIterator[Any], wanted: asyncio.Queue[asyncio.Future[Any]]
) -> None:
    """Put one item into each future of `wanted`, then close the iterator.

    All in one task: `asyncio.timeout()`, a `TaskGroup` or a context variable around a `yield` of
    the iterable must be left in the task in which it was entered.
    """
    try:
        with contained():
            while True:
                slot = await wanted.get()
                item = await anext(iterator)
                if slot.done():
                    return  # The reader has left, and the iterable went on after a cancellation.
                slot.set_result(item)
    except StopAsyncIteration:
        pass
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


async def _done(*futures: asyncio.Future[Any]) -> bool:
    """Whether one of `futures` is done before a heartbeat is due."""
    done, _ = await asyncio.wait(
        futures, timeout=settings().HEARTBEAT, return_when=asyncio.FIRST_COMPLETED
    )
    return bool(done)


def _retry() -> float | None:
    return random.uniform(*settings().RETRY)


async def _nothing() -> AsyncIterator[Any]:
    return
    yield  # Makes this function a generator.


def _parts(item: Any) -> tuple[str, str, str]:
    """Return the event's name, its text and its id, which may be empty."""
    name, data, id = "message", item, ""
    if isinstance(item, tuple) and len(item) == 2:
        name, data = item
    elif isinstance(item, tuple) and len(item) == 3:
        name, data, id = item
        id = validate_id(id)
    return validate_name(name), to_text(data), id
