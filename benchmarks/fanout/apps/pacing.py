"""Lets an application publish within its own process, at a pace that a request asks for.

`GET /pace/?rate=&seconds=&size=` answers with the number of events when the last has been
published. With `groups=` each event is for one of so many own groups, picked at random. `GET
/fill/?groups=&times=&size=` publishes so many events to each of them, many at once. An event's data
is `@`, the publisher's monotonic clock in nanoseconds, `.`, padding; nothing else on the wire has
an `@`, so that counting these is counting events.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qs

from ...publishers import GROUP, own

Application = Callable[[Any, Any, Any], Awaitable[None]]
#: Publishes a text to a group.
Publish = Callable[[str, str], Awaitable[Any]]
#: Publishes a text to each of the groups.
PublishMany = Callable[[list[str], str], Awaitable[Any]]

NAME: Final = "order.updated"
HEADERS: Final = [(b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-store")]
HELLO: Final = b"event: hello\ndata:\n\n"
#: As long as the ids of this app, so that all send about as many bytes.
ID: Final = "1" * 22
#: How many events are published at once by `/fill/`.
PORTION: Final = 1_000
#: How long one that does not come back from publishing is waited for.
BLOCKED_SECONDS: Final = 2.0


def paced(
    application: Application, publish: Publish, frame: int = 62, many: PublishMany | None = None
) -> Application:
    """Return `application` with `/pace/`, and with `/fill/` if it has `many`.

    `frame` is how many bytes its events have besides their data.
    """

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] not in {"/pace/", "/fill/"}:
            serving = application(scope, receive, send)
            del scope, receive, send  # What an application keeps of these is its own affair.
            await serving
            return
        query = {name: float(values[0]) for name, values in parse_qs(scope["query_string"]).items()}
        groups, length = int(query.get(b"groups", 0)), int(query[b"size"]) - frame
        if scope["path"] == "/fill/":
            assert many
            count = await fill(many, groups, int(query[b"times"]), length)
        else:
            count = await pace(publish, query[b"rate"], query[b"seconds"], length, groups)
        body = json.dumps({"published": count}).encode()
        headers = [(b"Content-Length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return serve


def stamped(length: int) -> str:
    """Return the data of an event that is published now."""
    return f"@{time.monotonic_ns()}.".ljust(length, "x")


async def fill(many: PublishMany, groups: int, times: int, length: int) -> int:
    """Publish `times` events to each group; return how many it were."""
    for _ in range(times):
        for first in range(0, groups, PORTION):
            names = [own(n) for n in range(first, min(first + PORTION, groups))]
            await many(names, stamped(length))
    return groups * times


async def pace(publish: Publish, rate: float, seconds: float, length: int, groups: int = 0) -> int:
    """Publish `rate` events a second, or as many as the process can; return how many it were."""
    count, most, began = 0, round(rate * seconds), time.monotonic()
    try:
        async with asyncio.timeout(seconds + BLOCKED_SECONDS):
            while count < most and (now := time.monotonic()) < began + seconds:
                await asyncio.sleep(max(0.0, began + count / rate - now))
                group = own(random.randrange(groups)) if groups else GROUP
                await publish(group, stamped(length))
                count += 1
    except TimeoutError:
        pass  # A reader that does not read holds up the publisher: what `kept` in the tables shows.
    return count


def block(text: str) -> bytes:
    """Return an event as this app sends it."""
    return f"id: {ID}\nevent: {NAME}\ndata: {text}\n\n".encode()
