"""A client of event streams for `sse_listen --url`, which reconnects with its last event id.

After an error it does what the HTML Standard, section 9.2.3 "Processing model", requires of a
browser, and reports it. Needs the package `httpx-sse`, which servers do not need.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: Until a stream sends another `retry:`.
RETRY_SECONDS: Final = 3.0
CONNECT_SECONDS: Final = 30.0
#: Longer than two heartbeats: a connection without data for this long is dead.
SILENCE_SECONDS: Final = 45.0


class Stopped(Exception):
    """A browser would not reconnect after the server's answer, which is in the text."""


@dataclass(frozen=True)
class HttpEvent:
    """An event as a client gets it; `group` is known only if it was read from the log."""

    name: str
    data: str
    id: str = ""
    group: str = ""


def httpx() -> Any:
    """Return the package `httpx`. Raises `Stopped`, which says how to install it."""
    try:
        import httpx as package
        import httpx_sse  # noqa: F401 - it needs httpx, and is the one to install
    except ImportError as error:
        text = f'--url needs the package httpx-sse: pip install "sse-app[listen]" ({error}).'
        raise Stopped(text) from error
    return package


async def listen(
    url: str, *, parameters: Sequence[tuple[str, str]] = (), after: str = "", token: str = ""
) -> AsyncIterator[HttpEvent | str]:
    """Yield the events of the stream at `url`, and a text when the connection ends or fails.

    `parameters` are added to the query, `after` is the id to continue from. Never ends by itself.
    Raises `Stopped` after an answer for which a browser would not reconnect, or if the package is
    missing, and `ValueError` for an invalid address.
    """
    http = httpx()
    from httpx_sse import aconnect_sse

    try:
        address = http.URL(url).copy_merge_params(parameters)
    except http.InvalidURL as error:
        raise ValueError(f"{url!r} is not a valid address: {error}.") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise ValueError(f"{url!r} is not a stream's address: it must begin with http(s)://.")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    last, retry = after, RETRY_SECONDS
    timeout = http.Timeout(CONNECT_SECONDS, read=SILENCE_SECONDS)
    async with http.AsyncClient(timeout=timeout) as client:
        while True:
            sent = {**headers, **({"Last-Event-ID": last} if last else {})}
            try:
                async with aconnect_sse(client, "GET", address, headers=sent) as source:
                    _refuse(source.response)
                    yield f"Listening to {address}; Ctrl-C ends."
                    async for event in source.aiter_sse():
                        last = event.id or last
                        retry = retry if event.retry is None else event.retry / 1000
                        yield HttpEvent(event.event, event.data, event.id)
                    yield f"The stream ended; reconnecting in {retry:g} s."
            except http.TransportError as error:
                yield f"The connection failed ({error!r}); reconnecting in {retry:g} s."
            await asyncio.sleep(retry)


def _refuse(response: Any) -> None:
    kind = response.headers.get("Content-Type", "")
    if response.status_code != 200:
        raise Stopped(f"The server answered {response.status_code} {response.reason_phrase}.")
    if kind.partition(";")[0].strip().lower() != "text/event-stream":
        raise Stopped(f"The server answered with {kind or 'no content type'}, not an event stream.")
