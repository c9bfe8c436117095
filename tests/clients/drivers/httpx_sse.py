"""PyPI: httpx-sse. It reads one response; coming back is up to who uses it."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
from httpx_sse import connect_sse

# httpx gives up after 5 s of silence by default; heartbeats come every 15 s.
TIMEOUT = httpx.Timeout(10, read=60)


def listen(url: str, headers: dict[str, str], see: Callable[..., None]) -> None:
    last_id, retry = "", 1.0
    with httpx.Client(timeout=TIMEOUT, headers=headers) as client:
        while True:
            resume = {"Last-Event-ID": last_id} if last_id else {}
            try:
                with connect_sse(client, "GET", url, headers=resume) as source:
                    source.response.raise_for_status()
                    for event in source.iter_sse():
                        last_id = event.id or last_id
                        retry = retry if event.retry is None else event.retry / 1000
                        see(event.event, event.data, event.id)
            except httpx.TransportError:
                pass
            time.sleep(retry)
