"""The sessions, users and fingerprints of many visitors, by three queries.

Django's `get_user()` needs a query for each session and each user. Reading them together is limited
to code of Django's, whose queries are known: everything else of a project (a store of sessions, an
authentication backend, a manager, a router) may be slow or fail for one visitor, or may depend on
context variables. Such a visitor is read alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from typing import Any, Final, NamedTuple

from django.conf import settings as django_settings
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user_model,
    load_backend,
)
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.db import InterfaceError, OperationalError, connections, models
from django.db.models.manager import BaseManager
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from .authorization import active_or_anonymous
from .fingerprints import Fingerprint, read_fingerprints

DJANGO: Final = "django."


class Visitor(NamedTuple):
    """A user, whether Django will move the session, and the user's fingerprint.

    The fingerprint is None for an `AnonymousUser`. See `sessions.user_of()`.
    """

    user: Any
    moves: bool = False
    fingerprint: Fingerprint | None = None

    def checked(self, fingerprint: Fingerprint | None) -> Visitor:
        """Return this visitor with the fingerprint of its user, or an anonymous one.

        A user who is inactive, has no row or has a changed password counts as anonymous.
        """
        # The session may have been verified with an old password, read from a replica.
        if fingerprint and fingerprint.active and fingerprint.has_password_of(self.user):
            return self._replace(fingerprint=fingerprint)
        return Visitor(AnonymousUser())


def visitor_of(user: Any, *, moves: bool = False) -> Visitor:
    """Return the visitor who is `user`. Blocks to read the fingerprint."""
    user = active_or_anonymous(user)
    if not user.is_authenticated:
        return Visitor(AnonymousUser())
    key = str(user.pk)
    return Visitor(user, moves).checked(read_fingerprints([key]).get(key))


def may_be_read_together(session: Any) -> bool:
    """Whether `session` may be given to `read_visitors()`. Does no I/O."""
    kind = type(session)  # Of a lazy session, which a middleware has made, the type is the proxy's.
    if django_settings.DATABASE_ROUTERS or not issubclass(kind, SessionBase):
        return False
    # By the settings: the stream's task would keep the wrappers that `connections` makes for it.
    if not all(one["ENGINE"].startswith(DJANGO) for one in connections.settings.values()):
        return False
    if kind.load is DatabaseStore.load:
        by_key = kind._get_session_from_db is DatabaseStore._get_session_from_db  # type: ignore[attr-defined]  # not in the stubs
        return by_key and _is_plain_manager(session.model.objects)
    return _is_of_django(kind.load)


def read_visitors(sessions: Sequence[Any]) -> list[Visitor | Exception | None]:
    """Load the sessions, which are of one store; return the visitor of each.

    None for a visitor that must be read alone, and an exception if this visitor can't be read.
    Raises an error of the database that concerns all of them.
    """
    try:
        return _read(sessions)
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        # A value that the database refuses, such as a NUL, fails the query of all.
        return [None] * len(sessions)


def _read(sessions: Sequence[Any]) -> list[Visitor | Exception | None]:
    claims = list(map(_claim_of, sessions, _rows(sessions)))
    users = _users({claim.key for claim in claims if isinstance(claim, _Claim)})
    visitors = [_verified(one, users) if isinstance(one, _Claim) else one for one in claims]
    keys = [str(one.user.pk) for one in visitors if isinstance(one, Visitor) and one.user.pk]
    fingerprints = read_fingerprints(keys)
    return [
        one.checked(fingerprints.get(str(one.user.pk))) if isinstance(one, Visitor) else one
        for one in visitors
    ]


# --- sessions ---


def _rows(sessions: Sequence[Any]) -> list[Any]:
    """Return the row of each session that is in the database, and True for other stores."""
    store = type(sessions[0])
    if store.load is not DatabaseStore.load:
        return [True] * len(sessions)
    manager = sessions[0].model.objects
    keys = {session.session_key for session in sessions} - {None}
    living = manager.filter(session_key__in=keys, expire_date__gt=timezone.now())
    rows = {row.session_key: row for row in living}
    return [rows.get(session.session_key) for session in sessions]


class _Claim(NamedTuple):
    """What a session says of its user: a primary key, a backend, and a hash to verify."""

    key: Any
    backend: ModelBackend
    hash: str


def _claim_of(session: Any, row: Any) -> _Claim | Visitor | Exception | None:
    """Load `session` from its `row`; return its claim, or the anonymous visitor."""
    try:
        if row is None:
            session._session_key = None  # As Django's store does.
            session._session_cache = {}
        elif row is not True:
            session._session_cache = session.decode(row.session_data)
        if SESSION_KEY not in session or BACKEND_SESSION_KEY not in session:
            return Visitor(AnonymousUser())
        key = get_user_model()._meta.pk.to_python(session[SESSION_KEY])
        path = session[BACKEND_SESSION_KEY]
        if path not in django_settings.AUTHENTICATION_BACKENDS:
            return Visitor(AnonymousUser())
        backend = load_backend(path)
        if not isinstance(backend, ModelBackend) or not _is_plain(backend):
            return None
        return _Claim(key, backend, session.get(HASH_SESSION_KEY) or "")
    except Exception as error:
        return error


# --- users ---


def _users(keys: Collection[Any]) -> dict[Any, Any]:
    return get_user_model()._default_manager.in_bulk(keys) if keys else {}


def _verified(claim: _Claim, users: dict[Any, Any]) -> Visitor | Exception:
    """Return the visitor as Django's `get_user()` verifies the session's hash."""
    try:
        user = users.get(claim.key)
        if user is None or not claim.backend.user_can_authenticate(user):
            return Visitor(AnonymousUser())
        # Each stream has a user of its own, to which its policy may add attributes.
        users[claim.key] = copy(user)
        if _fits(claim.hash, user.get_session_auth_hash()):
            return Visitor(active_or_anonymous(user))
        moves = any(_fits(claim.hash, other) for other in user.get_session_auth_fallback_hash())
        return Visitor(active_or_anonymous(user), moves) if moves else Visitor(AnonymousUser())
    except Exception as error:
        return error


def _fits(hash: str, other: str) -> bool:
    return bool(hash) and constant_time_compare(hash, other)


def _is_plain(backend: ModelBackend) -> bool:
    """Whether a query for many users finds the same ones as the backend's `get_user()`."""
    methods = type(backend).get_user, type(backend).user_can_authenticate
    model = get_user_model()
    return (
        all(map(_is_of_django, methods))
        and issubclass(model, AbstractBaseUser)
        and _is_plain_manager(model._default_manager)
    )


def _is_plain_manager(manager: Any) -> bool:
    plain = type(manager).get_queryset is BaseManager.get_queryset
    return plain and manager._queryset_class is models.QuerySet


def _is_of_django(what: Any) -> bool:
    return str(what.__module__).startswith(DJANGO)
