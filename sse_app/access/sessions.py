"""Reads a visitor's session without changing it.

A stream's response can't set another session cookie. But Django's `get_user()` moves a session to
another key if only a key in `SECRET_KEY_FALLBACKS` verifies its hash, and flushes a session whose
hash is wrong; and the file store deletes an expired session when it loads it. Each of these would
sign the visitor out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Final

from django.conf import settings as django_settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieStore
from django.db import router
from django.http import HttpRequest
from django.utils import timezone

CHUNK: Final = 1000


def session_of(request: HttpRequest) -> Any:
    """Return the request's session, not loaded yet; that of an ASGI middleware, if there is one.

    Loading the session changes nothing in its store.
    """
    scope: Any = getattr(request, "scope", {})
    key = request.COOKIES.get(django_settings.SESSION_COOKIE_NAME)
    return scope.get("session") or session_by(key)


def session_by(key: str | None) -> Any:
    """Return the session with this key. See `session_of()`."""
    session = _store()(key)
    load = session.load

    def load_only() -> Any:
        # Set on the object and not in a subclass: the class name is part of the data's signature.
        session.delete = session.create = lambda *args: None
        try:
            return load()
        finally:
            del session.delete, session.create

    session.load = load_only
    return session


def user_of(session: Any) -> tuple[Any, bool]:
    """Return the user of `session`, and whether Django will move the session to another key.

    Django does so at the user's next page if the session's hash fits only a key in
    `SECRET_KEY_FALLBACKS`. The session is not changed. Blocks to read the session and the user.
    """
    copy = _Copy(session.items())
    return get_user(SimpleNamespace(session=copy)), copy.moves  # type: ignore[arg-type]


def session_digest(key: str | None) -> str:
    """Return a digest of a session's key, which others may read; empty without a key."""
    text = f"sse_app.session:{key}".encode(errors="surrogatepass")
    return hashlib.sha256(text).hexdigest()[:32] if key else ""


def name_of(key: str | None) -> str:
    """Return the app's name for the session with this key: the key itself; empty without a key.

    For sessions in cookies, the key is the whole signed session: then the name is a digest of the
    key, so that the app does not store the session.
    """
    if key and issubclass(_store(), CookieStore):
        return session_digest(key)
    return key or ""


def live_sessions(names: Collection[str]) -> set[str]:
    """Return the names of the sessions that still exist.

    For sessions in the database, one query for each 1000 names; other stores get one call for each
    name. Sessions in cookies always exist, since no server can end them.
    """
    store = _store()
    if issubclass(store, CookieStore):
        return set(names)
    if not hasattr(store, "get_model_class"):
        return {name for name in names if store().exists(name)}
    model = store.get_model_class()
    # Like `written()`, but with the default manager: a project's manager may hide ended sessions.
    all_sessions = model._default_manager.using(router.db_for_write(model))
    sessions = all_sessions.filter(expire_date__gt=timezone.now())
    live: set[str] = set()
    listed = list(names)
    for start in range(0, len(listed), CHUNK):
        chunk = listed[start : start + CHUNK]
        live.update(sessions.filter(pk__in=chunk).values_list("pk", flat=True))
    return live


class _Copy(dict[str, Any]):
    """A copy of a session's data for `get_user()`, which changes its session."""

    moves = False

    def cycle_key(self) -> None:
        self.moves = True

    def flush(self) -> None:
        self.clear()


def _store() -> Any:
    return import_module(django_settings.SESSION_ENGINE).SessionStore
