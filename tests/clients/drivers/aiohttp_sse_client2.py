"""PyPI: aiohttp-sse-client2. It comes back after an end, and raises when a connection breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
from aiohttp_sse_client2.client import EventSource

# aiohttp ends every request after 300 s by default.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)


def listen(url: str, headers: dict[str, str], see: Callable[..., None]) -> None:
    asyncio.run(_listen(url, headers, see))


async def _listen(url: str, headers: dict[str, str], see: Callable[..., None]) -> None:
    last_id = ""
    while True:
        resume = {"Last-Event-ID": last_id} if last_id else {}
        try:
            source = EventSource(url, headers=headers | resume, timeout=TIMEOUT)
            async with source:
                async for event in source:
                    last_id = event.last_event_id or last_id
                    see(event.type or "message", event.data, event.last_event_id)
        except (aiohttp.ClientError, TimeoutError):
            await asyncio.sleep(1)
