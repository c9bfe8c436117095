"""`EventStreamResponse`: a one-off stream from an ordinary async view."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from django.http import StreamingHttpResponse

from .conf import settings
from .events import HEARTBEAT, encode_block, to_text, validate_name
from .farewells import farewell
from .records import about

logger = logging.getLogger("sse_app")


@dataclass(frozen=True)
class Close:
    """Yielded by an iterable, says farewell: `sse.close` with the reason, and ends the stream.

    The reasons and when a browser comes back after each are those of the other streams.
    """

    reason: str


class EventStreamResponse(StreamingHttpResponse):
    """Streams what an async iterable yields: `(event, data)` pairs, data alone, or a `Close`.

    The wire format, headers and heartbeat are those of the other streams; a `str` goes out as it
    is and everything else as JSON. The iterable is closed when the reader leaves. An exception in
    it is logged and ends the stream cleanly, as the response has started by then.
    """

    def __init__(self, events: AsyncIterable[Any], **kwargs: Any) -> None:
        kwargs.setdefault("content_type", "text/event-stream; charset=utf-8")
        super().__init__(_blocks(events), **kwargs)
        self["Cache-Control"] = "no-cache, no-store, private, no-transform"
        self["X-Accel-Buffering"] = "no"
        self["X-Content-Type-Options"] = "nosniff"


async def _blocks(events: AsyncIterable[Any]) -> AsyncIterator[bytes]:
    iterator = aiter(events)
    coming: asyncio.Future[Any] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(_next(iterator))
            done, _ = await asyncio.wait([coming], timeout=settings().HEARTBEAT)
            if not done:
                yield HEARTBEAT
                continue
            item = coming.result()
            coming = None
            yield _encode(item)
            if isinstance(item, Close):
                break
    except StopAsyncIteration:
        pass
    except Exception:
        logger.exception("An event stream's iterable failed; the stream ends here.", extra=about())
    finally:
        if coming is not None:
            coming.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await coming
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


async def _next(iterator: AsyncIterator[Any]) -> Any:
    return await anext(iterator)


def _encode(item: Any) -> bytes:
    if isinstance(item, Close):
        return farewell(item.reason)
    name, data = item if isinstance(item, tuple) and len(item) == 2 else ("message", item)
    return encode_block(validate_name(name), to_text(data))
