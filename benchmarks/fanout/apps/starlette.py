"""sse-starlette as its broadcast example has it: a queue per client, an `EventSourceResponse` each.

Leaner than the example, which wakes once a second to ask whether the client is there: the response
listens for that itself, and ends the generator.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.routing import Route

from .pacing import ID, NAME, paced

_queues: set[asyncio.Queue[Any]] = set()


async def _events() -> AsyncIterator[Any]:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    _queues.add(queue)
    try:
        yield ServerSentEvent(data="", event="hello")
        while True:
            yield await queue.get()
    finally:
        _queues.discard(queue)


async def _stream(request: Any) -> Any:
    return EventSourceResponse(_events())


async def _publish(group: str, text: str) -> None:
    event = ServerSentEvent(data=text, event=NAME, id=ID)
    for queue in _queues:
        queue.put_nowait(event)


# Its lines end with CR LF.
starlette = paced(Starlette(routes=[Route("/", _stream)]), _publish, frame=66)
