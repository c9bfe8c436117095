"""The members of a group: the signed-in users who have a stream of it, each once.

Members are known for groups that match the setting `PRESENCE_GROUPS`. `tracker` writes the rows
that this module reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured

from ..conf import namespace, settings, within_namespace, written
from ..protocol.groups import Group, full_name, matches
from ..runtime.callables import blocking, in_callers_thread, in_thread
from .models import GroupMember
from .naming import parsed

#: The names of the events, whose data is `{"user": …, "name": …}`.
JOIN: Final = "presence.join"
LEAVE: Final = "presence.leave"


@dataclass(frozen=True)
class Member:
    """A user in a group: the primary key as text, the name, and the time at which the user joined.

    `data`: the value that the project's function `PRESENCE_DATA` returned, None without one.
    """

    user: str
    name: str
    since: datetime
    data: Any = None


@blocking
def members(group: Group) -> list[Member]:
    """Return the members of `group`, sorted by name; every process returns the same.

    A user is a member from the event `presence.join` until the event `presence.leave`: a page that
    calls `cursor(group)` first misses no change. One query. Raises `ValueError` for a group that
    matches no pattern of `PRESENCE_GROUPS`, and `django.db.Error`.
    """
    full = full_name(group, namespace())
    if not is_kept(full):
        raise ValueError(
            f"The members of {group!r} are not known: it matches no pattern of "
            f"SSE_APP['PRESENCE_GROUPS']: {', '.join(map(repr, patterns())) or 'none'}."
        )
    rows = written(GroupMember).filter(group=full)
    found = rows.order_by("name", "pk").values_list("user_key", "name", "since", "data")
    return [Member(user, name, since, parsed(data)) for user, name, since, data in found]


async def amembers(group: Group) -> list[Member]:
    """See `members()`."""
    name = "" if settings().NAMESPACE is None else await in_callers_thread(namespace)
    with within_namespace(name):
        return await in_thread(members, group)


def is_kept(group: str) -> bool:
    """Return whether `group` matches a pattern of `PRESENCE_GROUPS`."""
    return matches(group, patterns())


def patterns() -> Sequence[str]:
    """Return the setting `PRESENCE_GROUPS`; raises `ImproperlyConfigured` unless it is a list."""
    found = settings().PRESENCE_GROUPS
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise ImproperlyConfigured(
            f"SSE_APP['PRESENCE_GROUPS'] is {found!r}; it must be a list, for example ['chat.*']."
        )
    return found
