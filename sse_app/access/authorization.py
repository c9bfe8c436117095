"""Which users may listen to a group or speak to it. A right that nothing grants is refused."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, cast

from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model
from django.http import HttpRequest
from django.utils.module_loading import import_string

from ..conf import namespace, settings
from ..protocol.groups import matches, own_name, scoped, user_group
from ..runtime.callables import call, in_transaction
from ..runtime.rare_logs import RareLog
from ..runtime.telemetry import log_fields
from ..runtime.threads import Threads

logger = logging.getLogger("sse_app")
_failed_log = RareLog(logger, logging.ERROR)

#: The policies that returned another type than bool. Each is logged once.
_faulty: Final[set[str]] = set()
#: The threads of each policy, by its dotted path: no policy waits for another one.
_threads: Final[defaultdict[str, Threads]] = defaultdict(Threads)


class PolicyFailed(Exception):
    """Raised instead of an error of a policy, which has been logged."""


async def ask(
    by: str, decide: Callable[..., Any], user: Any, *args: Any, own_threads: bool = True
) -> bool:
    """Whether the policy `decide(user, *args)` returns `True`, which alone grants a right.

    `by`: its dotted path. The policy is sync or async and has `POLICY_SECONDS`. A sync one runs in
    threads of its own, see `in_thread()`, or without `own_threads` in the caller's thread. Raises
    `PolicyFailed` if the policy raises or does not answer in time. That is logged, at most once a
    minute for each policy.
    """
    seconds = settings().POLICY_SECONDS
    user_key = scoped(str(user.pk), namespace()) if user.is_authenticated else None
    # A policy that hangs for one user has one thread, however often the user returns.
    key = (user_key, repr(args[0])) if user_key else None
    threads = _threads[by] if own_threads else None
    try:
        answer = await call(decide, user, *args, threads=threads, key=key, seconds=seconds)
    except PolicyFailed:
        raise
    except Exception as error:
        _failed_log(
            "The policy %s failed, or did not answer within %g s: %r",
            by,
            seconds,
            error,
            key=by,
            exc_info=True,
            extra=log_fields(user=user_key, error=error),
        )
        raise PolicyFailed(f"{by} did not decide: {error!r}") from error
    return is_true(by, answer)


def is_true(by: str, answer: object) -> bool:
    """Whether `answer` is `True`, which alone grants a right.

    `by`: the dotted path of the policy that gave the answer. An answer that is no bool is refused
    and logged, once per policy: nearly every object is true, even a coroutine never awaited.
    """
    if not isinstance(answer, bool) and by not in _faulty:
        _faulty.add(by)
        kind = type(answer)
        logger.error(
            "%s returned an object of the type %s.%s, and was refused: only True grants a right. "
            "Return True or False there, for example by bool(…).",
            by,
            kind.__module__,
            kind.__qualname__,
            extra=log_fields(),
        )
    return answer is True


def has_permission(user: Any, *permissions: str) -> bool:
    """Whether `user` has all of `permissions`, such as `"sse_app.end_streams"`.

    A user of a model without permissions, which has no `has_perm()`, has none.
    """
    by, has_perm = method_of(user, "has_perm"), getattr(user, "has_perm", lambda _: False)
    return all(is_true(by, has_perm(permission)) for permission in permissions)


def method_of(owner: Any, name: str) -> str:
    """Return the dotted path of a method, for `is_true()`."""
    kind = owner.__class__
    return f"{kind.__module__}.{kind.__qualname__}.{name}"


def active_or_anonymous(user: Any) -> Any:
    """Return `user` if the user is signed in and active, else an `AnonymousUser`.

    This holds even if an authentication backend such as `AllowAllUsersModelBackend` signs in
    inactive users. A row of another model counts as anonymous, since a user of `AUTH_USER_MODEL`
    may have the same primary key.
    """
    signed_in = getattr(user, "is_authenticated", None) is True
    foreign = isinstance(user, Model) and not isinstance(user, get_user_model())
    allowed = signed_in and not foreign and getattr(user, "is_active", True)
    return user if allowed else AnonymousUser()


def public_patterns() -> Sequence[str]:
    """Return the setting `PUBLIC_GROUPS`.

    Raises `ImproperlyConfigured` for a string or another value that is no list: the characters
    of `"chat.*"` would each be a pattern, and one of them is `*`.
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


async def may_listen(
    user: Any, groups: Iterable[str], request: HttpRequest, *, own_threads: bool = True
) -> bool:
    """Whether `user` may listen to all of `groups`.

    Granted are groups that match `PUBLIC_GROUPS`, the user's own `user_group(user)`,
    and groups for which the policy `MAY_LISTEN(user, group, request)`, sync or async, returns
    `True`. The policy gets an `AnonymousUser` for an inactive user. Raises `PolicyFailed`, see
    `ask()`.
    """
    reader = active_or_anonymous(user)
    for group in map(own_name, groups):
        if _granted(reader, group):
            continue
        decide = policy("MAY_LISTEN")
        if decide is None:
            return False
        by = str(settings().MAY_LISTEN)
        if not await ask(by, decide, reader, group, request, own_threads=own_threads):
            return False
    return True


def may_speak(user: Any, group: str, event: str, request: HttpRequest) -> bool:
    """Whether `user` may send `event` up to `group`.

    The policy `MAY_SPEAK(user, group, event, request)` decides, sync or async, by returning `True`.
    Without a policy, signed-in users may speak to the groups they may listen to, and anonymous
    users to no group. Raises `PolicyFailed`, see `ask()`.
    """
    speaker = active_or_anonymous(user)
    decide = policy("MAY_SPEAK")
    if decide is not None:
        by = str(settings().MAY_SPEAK)
        return _from_sync(ask, by, decide, speaker, group, event, request)
    return speaker.is_authenticated and may_listen_from_sync(speaker, [group], request)


def may_listen_from_sync(user: Any, groups: Iterable[str], request: HttpRequest) -> bool:
    """See `may_listen()`."""
    # First access loads a request's lazy user, which must not happen on the event loop.
    return _from_sync(may_listen, active_or_anonymous(user), groups, request)


def _from_sync(asked: Callable[..., Awaitable[bool]], *args: Any) -> bool:
    return async_to_sync(asked)(*args, own_threads=not needs_callers_thread())


def needs_callers_thread() -> bool:
    """Whether a view's policy or authenticator must run in the thread of the view.

    Within a transaction it must see the rows, and must not wait for the locks. With
    `STREAM_CONTEXT` a middleware may have set the tenant of the thread.
    """
    return in_transaction() or settings().STREAM_CONTEXT is not None


def is_granted(user: Any, groups: Iterable[str]) -> bool:
    """Whether `user` may listen to all of `groups` without a policy: see `may_listen()`."""
    reader = active_or_anonymous(user)
    return all(_granted(reader, own_name(group)) for group in groups)


def _granted(user: Any, group: str) -> bool:
    own = user.is_authenticated and user.pk is not None and group == user_group(user)
    return own or matches(group, public_patterns())


def policy(key: str) -> Callable[..., Any] | None:
    """Return the policy that the setting `key` names, None if the setting is None.

    Raises `ImproperlyConfigured` if the policy can't be imported or called.
    """
    path = getattr(settings(), key)
    return None if path is None else imported(key, path)


@lru_cache
def imported(key: str, path: str) -> Callable[..., Any]:
    """Return the function or class with this dotted path, which the setting `key` names.

    Raises `ImproperlyConfigured` if it can't be imported or called.
    """
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
