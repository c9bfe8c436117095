"""One channel for each client, as the documentation of Channels leads to.

An `AsyncHttpConsumer` that joins a group and passes on what it is sent; `group_send` publishes.
"""

from __future__ import annotations

import os
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.fanout.settings")
django.setup()

from channels.generic.http import AsyncHttpConsumer  # noqa: E402 - it needs the settings
from channels.layers import get_channel_layer  # noqa: E402

from ...publishers import GROUP  # noqa: E402
from .pacing import HEADERS, HELLO, block, paced  # noqa: E402


class Textbook(AsyncHttpConsumer):  # type: ignore[misc]  # channels has no types
    """A consumer of one stream."""

    async def http_request(self, message: Any) -> None:
        """Join, begin the response; messages and the disconnect are dispatched after it."""
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.send_headers(status=200, headers=HEADERS)
        await self.send_body(HELLO, more_body=True)

    async def disconnect(self) -> None:
        """Leave."""
        await self.channel_layer.group_discard(GROUP, self.channel_name)

    async def bench_event(self, message: Any) -> None:
        """Pass an event on."""
        await self.send_body(block(message["text"]), more_body=True)


async def _publish(group: str, text: str) -> None:
    await get_channel_layer().group_send(group, {"type": "bench.event", "text": text})


textbook = paced(Textbook.as_asgi(), _publish)
