"""PyPI: launchdarkly-eventsource."""

from __future__ import annotations

from collections.abc import Callable

from ld_eventsource import SSEClient
from ld_eventsource.actions import Event, Fault
from ld_eventsource.config import ConnectStrategy, ErrorStrategy, RetryDelayStrategy
from ld_eventsource.errors import HTTPStatusError


def listen(url: str, headers: dict[str, str], see: Callable[..., None]) -> None:
    client = SSEClient(
        ConnectStrategy.http(url, headers=headers),
        error_strategy=ErrorStrategy.always_continue(),  # Else the first end is the last.
        # It doesn't heed `retry:`; without a limit each return takes twice as long.
        retry_delay_strategy=RetryDelayStrategy.default(max_delay=3, jitter_multiplier=0.5),
    )
    for action in client.all:
        if isinstance(action, Event):
            see(action.event, action.data, action.last_event_id)
        elif isinstance(action, Fault) and isinstance(action.error, HTTPStatusError):
            raise action.error  # Not permitted: asking again is of no use.
