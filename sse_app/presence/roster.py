"""Who is in a group: the signed-in users with a stream of it, each once however many tabs.

Kept for the groups that match the setting `PRESENCE_GROUPS`; `attendance` writes what is read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.core.exceptions import ImproperlyConfigured

from ..conf import settings, written
from ..protocol.groups import matches, validate_group
from ..runtime.callables import in_thread
from .models import GroupMember

#: The names of the events, whose data is `{"user": …, "name": …}`.
JOIN: Final = "presence.join"
LEAVE: Final = "presence.leave"


@dataclass(frozen=True)
class Member:
    """Who is in a group: the user's primary key as text, their user name, and since when."""

    user: str
    name: str
    since: datetime


def members(group: str) -> list[Member]:
    """Return who is in `group`, by name; in every process the same.

    Whoever is in the list has joined by an event `presence.join`, and is in it until the event
    `presence.leave`: with `cursor(group)` read first, a page misses none. One query. Raises
    `ValueError` for a group that no pattern of `PRESENCE_GROUPS` matches, and `django.db.Error`.
    """
    if not is_kept(validate_group(group)):
        raise ValueError(
            f"Nobody keeps who is in {group!r}: no pattern of SSE_APP['PRESENCE_GROUPS'] "
            f"matches it. It has: {', '.join(map(repr, patterns())) or 'none'}."
        )
    rows = written(GroupMember).filter(group=group)
    found = rows.order_by("name", "pk").values_list("user_key", "name", "since")
    return [Member(*row) for row in found]


async def amembers(group: str) -> list[Member]:
    """See `members()`."""
    return await in_thread(members, group)


def is_kept(group: str) -> bool:
    """Whether it is kept who is in `group`."""
    return matches(group, patterns())


def patterns() -> Sequence[str]:
    """Return the setting `PRESENCE_GROUPS`; raises `ImproperlyConfigured` for what is no list."""
    found = settings().PRESENCE_GROUPS
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise ImproperlyConfigured(
            f"SSE_APP['PRESENCE_GROUPS'] is {found!r}; it must be a list, for example ['chat.*']."
        )
    return found
