"""Signs visitors in without a session: asks the functions and classes of `AUTHENTICATE`.

Each gets the request, in the order of the list, before the session is read: for a stream, and for
`send/`, `ticket/` and `renew/`. An entry is a function, sync or async, that returns a user or None,
or an authentication class of Django REST framework. None passes the request on to the next entry.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables

from ..conf import settings
from ..runtime.callables import call, in_thread
from ..runtime.rare_logs import RareLog
from ..runtime.surroundings import surrounded
from ..runtime.telemetry import log_fields
from ..runtime.threads import STORE, Threads
from .authorization import imported, needs_callers_thread
from .refusals import Refused
from .tokens import bearer_of, verify_token, visitor_of_token
from .visitors import Visitor, visitor_of

FORBIDDEN: Final = "Not permitted."
INVALID: Final = "These credentials are not valid."
#: The attribute of a view's request that an authenticator has signed in.
_SIGNED_IN: Final = "_sse_app_signed_in"

logger = logging.getLogger("sse_app")
_failed_log = RareLog(logger, logging.ERROR)

#: The threads of each authenticator, by its dotted path: none waits for another one.
_threads: Final[defaultdict[str, Threads]] = defaultdict(Threads)


class AuthenticatorFailed(Exception):
    """Raised instead of an error of an authenticator, which has been logged."""


@dataclass(frozen=True)
class Authenticator:
    """One entry of `AUTHENTICATE`: its dotted path, and `ask(request)`, which returns a user.

    `challenge(request)` returns the header `WWW-Authenticate` for a refused request. `once`: the
    fingerprint of the user shows whether the same credentials would still sign the user in.
    """

    path: str
    ask: Callable[[HttpRequest], Any]
    challenge: Callable[[HttpRequest], str | None] = lambda request: None
    once: bool = False


@dataclass(frozen=True)
class SignedIn:
    """The visitor whom an authenticator has signed in.

    `again` asks, with the same request, whether that still holds; None if the visitor's
    fingerprint shows it.
    """

    visitor: Visitor
    again: Callable[[], Awaitable[bool]] | None


def authenticators() -> Collection[Authenticator]:
    """Return the setting `AUTHENTICATE`.

    Raises `ImproperlyConfigured` that names an entry that can't be imported or called.
    """
    paths = settings().AUTHENTICATE
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(paths, Sequence) or not all(isinstance(path, str) for path in paths):
        raise ImproperlyConfigured(
            f"SSE_APP['AUTHENTICATE'] is {paths!r}; it must be a dotted path or a list of them, "
            "for example ['rest_framework.authentication.TokenAuthentication']."
        )
    return [one for one in map(_loaded, paths) if one is not None]


async def authenticate(request: HttpRequest, *, own_threads: bool = True) -> SignedIn | None:
    """Return the visitor whom the first authenticator with an answer signs in; None without one.

    Raises `Refused` if an authenticator refuses the request, or if its answer is no active user
    with a row of `AUTH_USER_MODEL`; then neither another one nor the session is asked. Raises
    `AuthenticatorFailed`, and the errors of the database that keeps the users. `own_threads`: see
    `authorization.ask()`.
    """
    for one in authenticators():
        found = await _ask(one, request, own_threads)
        if found is not None:
            threads = STORE if own_threads else None
            visitor = await in_thread(
                surrounded(_visitor), one, found, threads=threads, seconds=_seconds()
            )
            return SignedIn(visitor, None if one.once else _Again(request, str(visitor.user.pk)))
    return None


def sign_in(request: HttpRequest) -> bool:
    """Set the user of a view's request if it has other credentials than a session.

    These are a user's token of this app, or what `AUTHENTICATE` knows. Returns whether the user was
    set. Raises as `authenticate()` does.
    """
    visitor = _by_token(request)
    if visitor is None and bearer_of(request) is None:
        found = async_to_sync(authenticate)(request, own_threads=not needs_callers_thread())
        visitor = None if found is None else found.visitor
    if visitor is None:
        return False
    request.user = visitor.user
    setattr(request, _SIGNED_IN, True)
    return True


@sensitive_variables()
def _by_token(request: HttpRequest) -> Visitor | None:
    text = bearer_of(request)
    token = None if text is None else verify_token(text)
    if text is None or (token is not None and token.user_id is None):
        return None  # The token of a program signs nobody in.
    visitor = None if token is None else visitor_of_token(token)
    if visitor is None:
        raise Refused(401, INVALID, {"WWW-Authenticate": "Bearer"})
    return visitor


def has_session(request: HttpRequest) -> bool:
    """Whether the session of a view's request, if it has one, belongs to the request's user."""
    return not getattr(request, _SIGNED_IN, False)


class _Again:
    """Asks the authenticators again, with the headers of a stream's request."""

    def __init__(self, request: HttpRequest, key: str) -> None:
        # The scope and not the request, which is larger.
        self._scope: Mapping[str, Any] = getattr(request, "scope", {})
        self._key = key

    async def __call__(self) -> bool:
        """Whether the same user is signed in. Raises `AuthenticatorFailed`."""
        request = ASGIRequest(self._scope, BytesIO())
        try:
            for one in authenticators():
                found = await _ask(one, request, own_threads=True)
                if found is not None:
                    key: str = await in_thread(surrounded(_key_of), found, threads=STORE)
                    return key == self._key
        except Refused:
            pass
        return False


@sensitive_variables()
async def _ask(one: Authenticator, request: HttpRequest, own_threads: bool) -> Any:
    seconds = _seconds()
    # Credentials that hang have one thread, however often they are sent.
    credentials = request.headers.get("Authorization")
    key = hash(credentials) if credentials else None
    threads = _threads[one.path] if own_threads else None
    try:
        return await call(one.ask, request, threads=threads, key=key, seconds=seconds)
    except Exception as error:
        status = 403 if isinstance(error, PermissionDenied) else getattr(error, "status_code", 0)
        if status in (401, 403):
            raise _refusal(one, request, status) from error
        _failed_log(
            "The authenticator %s failed, or did not answer within %g s: %r",
            one.path,
            seconds,
            error,
            key=one.path,
            exc_info=True,
            extra=log_fields(error=error),
        )
        raise AuthenticatorFailed(f"{one.path} did not answer: {error!r}") from error


def _refusal(one: Authenticator, request: HttpRequest, status: int) -> Refused:
    """Return the refusal as Django REST framework answers: 401 only with a challenge."""
    challenge = one.challenge(request) if status == 401 else None
    if not challenge:
        return Refused(403, FORBIDDEN)
    return Refused(401, INVALID, {"WWW-Authenticate": challenge})


def _visitor(one: Authenticator, found: Any) -> Visitor:
    """Return the visitor who is `found`. Blocks to read the fingerprint. Raises `Refused`."""
    if getattr(found, "is_authenticated", None) is not True:
        kind = type(found)
        _log_no_user(one.path, f"{kind.__module__}.{kind.__qualname__}")
        raise Refused(403, FORBIDDEN)
    visitor = visitor_of(found)
    if visitor.fingerprint is None:
        raise Refused(403, FORBIDDEN)
    return visitor


def _key_of(user: Any) -> str:
    return str(user.pk)


@lru_cache(maxsize=64)
def _log_no_user(path: str, kind: str) -> None:
    logger.error(
        "%s returned an object of the type %s, which is no signed-in user, and the request was "
        "refused. Return a user of AUTH_USER_MODEL, or None for a request that it does not know.",
        path,
        kind,
        extra=log_fields(),
    )


def _seconds() -> float:
    return settings().POLICY_SECONDS


# --- entries ---


@lru_cache
def _loaded(path: str) -> Authenticator | None:
    """Return the entry with this dotted path.

    None for DRF's `SessionAuthentication`: the session is asked in any case.
    """
    found = imported("AUTHENTICATE", path)
    if not isinstance(found, type):
        return Authenticator(path, found)
    if not callable(getattr(found, "authenticate", None)):
        raise ImproperlyConfigured(
            f"SSE_APP['AUTHENTICATE'] names {path!r}, a class without authenticate(request); give "
            "a function, or an authentication class of Django REST framework."
        )
    return _of_class(path, found)


def _of_class(path: str, kind: Any) -> Authenticator | None:
    try:
        from rest_framework.authentication import BasicAuthentication, SessionAuthentication
        from rest_framework.request import Request
    except ImportError as error:
        raise ImproperlyConfigured(
            f"SSE_APP['AUTHENTICATE'] names {path!r}, a class of Django REST framework, which "
            f"can't be imported ({error})."
        ) from error

    if issubclass(kind, SessionAuthentication):
        return None
    one = kind()

    def ask(request: HttpRequest) -> Any:
        answer = one.authenticate(Request(request))
        return answer if answer is None else answer[0]

    def challenge(request: HttpRequest) -> str | None:
        value: str | None = one.authenticate_header(Request(request))
        return value

    # Of a password the fingerprint has a digest, and to verify it again costs 0.3 s of CPU time.
    return Authenticator(path, ask, challenge, once=issubclass(kind, BasicAuthentication))
