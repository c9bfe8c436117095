"""`EventStreamResponse`: a one-off stream from an ordinary async view."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from typing import Any

from django.http import StreamingHttpResponse

from .conf import settings
from .events import HEARTBEAT, encode_block, to_text, validate_name
from .records import about

logger = logging.getLogger("sse_app")


class EventStreamResponse(StreamingHttpResponse):
    """Streams what an async iterable yields: `(event, data)` pairs, or data alone.

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
            block = _encode(coming.result())
            coming = None
            yield block
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
    name, data = item if isinstance(item, tuple) and len(item) == 2 else ("message", item)
    return encode_block(validate_name(name), to_text(data))
