"""Bare ASGI: what a server can do when the application does nothing.

No framework, no log, no heartbeat, no limit; the bytes of an event are made once for all streams.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from urllib.parse import parse_qs

from ...publishers import GROUP
from .pacing import HEADERS, HELLO, block, paced

_sends: defaultdict[str, set[Any]] = defaultdict(set)


async def _serve(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": HELLO, "more_body": True})
    groups = parse_qs(scope["query_string"].decode()).get("group", [GROUP])
    for group in groups:
        _sends[group].add(send)
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        for group in groups:
            _sends[group].discard(send)


async def _publish(group: str, text: str) -> None:
    message = {"type": "http.response.body", "body": block(text), "more_body": True}
    for send in list(_sends[group]):
        await send(message)


raw = paced(_serve, _publish)
