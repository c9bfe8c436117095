"""PyPI: requests-sse."""

from __future__ import annotations

from collections.abc import Callable

from requests_sse import EventSource


def listen(url: str, headers: dict[str, str], see: Callable[..., None]) -> None:
    # It gives up after `max_connect_retry` refused connections in a row.
    with EventSource(url, headers=headers, timeout=60, max_connect_retry=20) as source:
        for event in source:
            see(event.type, event.data, event.last_event_id)
