"""Who may listen and who may speak. Closed by default: what nothing grants is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, cast

from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.module_loading import import_string

from .conf import settings
from .groups import matches


def public_patterns() -> Sequence[str]:
    """Return the setting `PUBLIC_GROUPS`.

    Raises `ImproperlyConfigured` for what is no list: the characters of `"chat.*"` would be
    patterns too, and one of them is `*`.
    """
    patterns = settings().PUBLIC_GROUPS
    if isinstance(patterns, str) or not isinstance(patterns, Sequence):
        raise ImproperlyConfigured(
            f"SSE_APP['PUBLIC_GROUPS'] is {patterns!r}; it must be a list, for example ['chat.*']."
        )
    return patterns


def is_public(groups: Iterable[str]) -> bool:
    """Whether anyone may listen to all of `groups`."""
    return all(matches(group, public_patterns()) for group in groups)


async def may_listen(user: Any, groups: Iterable[str], request: HttpRequest) -> bool:
    """Whether `user` may listen to all of `groups`.

    Granted are groups that match `PUBLIC_GROUPS`, the user's own `user.<pk>`, and what the
    policy `MAY_LISTEN(user, group, request)`, sync or async, returns true for.
    """
    for group in groups:
        if _granted(user, group):
            continue
        decide = policy("MAY_LISTEN")
        if decide is None or not await _call(decide, user, group, request):
            return False
    return True


def may_speak(user: Any, group: str, event: str, request: HttpRequest) -> bool:
    """Whether `user` may send `event` up to `group`.

    The policy `MAY_SPEAK(user, group, event, request)` decides, sync or async. Without one,
    whoever is signed in may speak where they may listen.
    """
    decide = policy("MAY_SPEAK")
    if decide is not None:
        call = async_to_sync(decide) if inspect.iscoroutinefunction(decide) else decide
        return bool(call(user, group, event, request))
    return user.is_authenticated and may_listen_from_sync(user, [group], request)


def may_listen_from_sync(user: Any, groups: Iterable[str], request: HttpRequest) -> bool:
    """See `may_listen()`."""
    # A request's user is loaded when it is first looked at, which must not be on an event loop.
    _ = user.is_authenticated
    return async_to_sync(may_listen)(user, groups, request)


def _granted(user: Any, group: str) -> bool:
    own = user is not None and user.is_authenticated and group == f"user.{user.pk}"
    return own or matches(group, public_patterns())


async def _call(decide: Callable[..., Any], *args: Any) -> bool:
    if inspect.iscoroutinefunction(decide):
        return bool(await decide(*args))
    return bool(await database_sync_to_async(decide)(*args))


def policy(key: str) -> Callable[..., Any] | None:
    """Return the policy that the setting `key` names, None if it names none.

    Raises `ImproperlyConfigured` if it can't be imported or called.
    """
    path = getattr(settings(), key)
    return None if path is None else _imported(key, path)


@lru_cache
def _imported(key: str, path: str) -> Callable[..., Any]:
    try:
        found: Any = import_string(path)
    except (ImportError, AttributeError) as error:
        raise ImproperlyConfigured(
            f"SSE_APP[{key!r}] names {path!r}, which can't be imported ({error}); "
            "give the dotted path of a function."
        ) from error
    if not callable(found):
        raise ImproperlyConfigured(f"SSE_APP[{key!r}] names {path!r}, which is not callable.")
    return cast("Callable[..., Any]", found)
