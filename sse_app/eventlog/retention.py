"""How long events are kept: `RETENTION_SECONDS`, and `RETAIN` for the last events of a group."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Final

from django.core.exceptions import ImproperlyConfigured

from ..conf import settings
from ..protocol.groups import matches, validate_pattern

MOST_EVENTS: Final = 500
#: A hundred years. A longer time would overflow dates, and the integers of Redis.
MOST_SECONDS: Final = 100 * 365.25 * 24 * 3600


def retention_seconds() -> float:
    """Return how long events are kept; infinity if the setting is None or a hundred years."""
    seconds = settings().RETENTION_SECONDS
    return inf if seconds is None or seconds >= MOST_SECONDS else seconds


def retained_count(group: str) -> int:
    """Return how many last events of `group` stay in the log at any age, and go to new streams.

    Of several patterns that match, the largest number counts.
    """
    retain = settings().RETAIN
    if not retain:  # The default: each append asks.
        return 0
    return max((retain[pattern] for pattern in retain if matches(group, [pattern])), default=0)


def retained_patterns() -> Mapping[str, int]:
    """Return the setting `RETAIN`; raises `ImproperlyConfigured` that names an invalid value."""
    retain = settings().RETAIN
    if not isinstance(retain, Mapping):
        raise ImproperlyConfigured(
            f"SSE_APP['RETAIN'] is {retain!r}; it must be a dict of patterns and numbers of "
            "events, for example {'price.*': 1}."
        )
    if not retain:
        return retain  # RETENTION_EVENTS, which another check validates, is then not used.
    # Half of RETENTION_EVENTS: new events must not trim retained ones before a new stream has
    # read them.
    most = max(1, min(MOST_EVENTS, settings().RETENTION_EVENTS // 2))
    for pattern, count in retain.items():
        try:
            validate_pattern(pattern)
        except ValueError as error:
            raise ImproperlyConfigured(f"SSE_APP['RETAIN']: {error}") from error
        if type(count) is not int or not 1 <= count <= most:
            raise ImproperlyConfigured(
                f"SSE_APP['RETAIN'][{pattern!r}] is {count!r}; it must be an int from 1 to {most}, "
                f"the smaller of {MOST_EVENTS} and half of RETENTION_EVENTS."
            )
    return retain
