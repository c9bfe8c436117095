"""The setting `RETAIN`: how many of a group's last events are kept for ever and given at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from django.core.exceptions import ImproperlyConfigured

from ..conf import settings
from ..protocol.groups import matches, validate_pattern

MOST_EVENTS: Final = 500


def retained_count(group: str) -> int:
    """Return how many last events of `group` every new stream gets, the most that a pattern says.

    They stay in the log whatever their age.
    """
    wanted = settings().RETAIN
    return max((wanted[pattern] for pattern in wanted if matches(group, [pattern])), default=0)


def retained_patterns() -> Mapping[str, int]:
    """Return the setting `RETAIN`; raises `ImproperlyConfigured` that names what is wrong."""
    wanted = settings().RETAIN
    if not isinstance(wanted, Mapping):
        raise ImproperlyConfigured(
            f"SSE_APP['RETAIN'] is {wanted!r}; it must be a dict of patterns and numbers of "
            "events, for example {'price.*': 1}."
        )
    if not wanted:
        return wanted  # Whatever RETENTION_EVENTS is; its own check says what is wrong there.
    # Half, so that they are not trimmed before a new stream has read them, while others come.
    most = max(1, min(MOST_EVENTS, settings().RETENTION_EVENTS // 2))
    for pattern, count in wanted.items():
        try:
            validate_pattern(pattern)
        except ValueError as error:
            raise ImproperlyConfigured(f"SSE_APP['RETAIN']: {error}") from error
        if type(count) is not int or not 1 <= count <= most:
            raise ImproperlyConfigured(
                f"SSE_APP['RETAIN'][{pattern!r}] is {count!r}; it must be an int from 1 to {most}, "
                f"the smaller of {MOST_EVENTS} and half of RETENTION_EVENTS."
            )
    return wanted
