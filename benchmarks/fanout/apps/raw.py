"""Bare ASGI: what a server can do when the application does nothing.

No framework, no log, no heartbeat, no limit; the bytes of an event are made once for all streams.
"""

from __future__ import annotations

from typing import Any

from .pacing import HEADERS, HELLO, block, paced

_sends: set[Any] = set()


async def _serve(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": HELLO, "more_body": True})
    _sends.add(send)
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        _sends.discard(send)


async def _publish(text: str) -> None:
    message = {"type": "http.response.body", "body": block(text), "more_body": True}
    for send in list(_sends):
        await send(message)


raw = paced(_serve, _publish)
