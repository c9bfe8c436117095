"""What `benchmarks.fanout` lets Daphne serve: this app, raw ASGI, the textbook Channels consumer.

Each publishes within its own process when asked: `GET /pace/?rate=&seconds=&size=` answers with the
number of events when the last has been published.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qs

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from channels.generic.http import AsyncHttpConsumer  # noqa: E402 - it needs the settings
from channels.layers import get_channel_layer  # noqa: E402

from project.asgi import application as project  # noqa: E402
from sse_app import apublish  # noqa: E402

from .publishers import GROUP, NAME  # noqa: E402

Application = Callable[[Any, Any, Any], Awaitable[None]]

HEADERS: Final = [(b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-store")]
HELLO: Final = b"event: hello\ndata:\n\n"
#: As long as the ids of this app, so that all send about as many bytes.
ID: Final = "1" * 22


def paced(application: Application, publish: Callable[[str], Awaitable[Any]]) -> Application:
    """Return `application` with an address that lets it publish."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/pace/":
            await application(scope, receive, send)
            return
        query = {name: float(values[0]) for name, values in parse_qs(scope["query_string"]).items()}
        count = await pace(publish, query[b"rate"], query[b"seconds"], int(query[b"size"]))
        body = json.dumps({"published": count}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return serve


async def pace(
    publish: Callable[[str], Awaitable[Any]], rate: float, seconds: float, size: int
) -> int:
    """Publish `rate` events a second, or as many as the process can; return how many it were."""
    count, began = 0, time.monotonic()
    while (now := time.monotonic()) < began + seconds:
        await asyncio.sleep(max(0.0, began + count / rate - now))
        # The id, the name and the chunk's frame are the rest.
        await publish(f"t={time.monotonic_ns()}.".ljust(size - 62, "x"))
        count += 1
    return count


def block(text: str) -> bytes:
    """Return an event as this app sends it."""
    return f"id: {ID}\nevent: {NAME}\ndata: {text}\n\n".encode()


# --- this app ---

ours = paced(project, lambda text: apublish(GROUP, NAME, text))


# --- raw ASGI ---

_sends: set[Any] = set()


async def _raw(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": HELLO, "more_body": True})
    _sends.add(send)
    while (await receive())["type"] != "http.disconnect":
        pass
    _sends.discard(send)


async def _raw_publish(text: str) -> None:
    message = {"type": "http.response.body", "body": block(text), "more_body": True}
    for send in list(_sends):
        await send(message)


raw = paced(_raw, _raw_publish)


# --- the textbook consumer ---


class Textbook(AsyncHttpConsumer):  # type: ignore[misc]  # channels has no types
    """One channel for each client, as the documentation of Channels leads to."""

    async def http_request(self, message: Any) -> None:
        """Begin the response and join; messages and the disconnect are dispatched after it."""
        await self.send_headers(status=200, headers=HEADERS)
        await self.send_body(HELLO, more_body=True)
        await self.channel_layer.group_add(GROUP, self.channel_name)

    async def disconnect(self) -> None:
        """Leave."""
        await self.channel_layer.group_discard(GROUP, self.channel_name)

    async def bench_event(self, message: Any) -> None:
        """Pass an event on."""
        await self.send_body(block(message["text"]), more_body=True)


async def _textbook_publish(text: str) -> None:
    await get_channel_layer().group_send(GROUP, {"type": "bench.event", "text": text})


textbook = paced(Textbook.as_asgi(), _textbook_publish)
