"""Looking at a visitor's session without changing it.

The response to a stream can't give the browser another session cookie. But Django's `get_user()`
moves a session to another key where only a key in `SECRET_KEY_FALLBACKS` fits, and ends a session
whose hash is wrong; and the file store deletes an expired session while it loads it. Each would
sign the visitor out, or do so behind the back of the visitor's other requests.
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
    """Return the request's session, not read yet; that of an ASGI middleware, if there is one.

    Reading the session changes nothing in its store.
    """
    scope: Any = getattr(request, "scope", {})
    key = request.COOKIES.get(django_settings.SESSION_COOKIE_NAME)
    return scope.get("session") or session_by(key)


def session_by(key: str | None) -> Any:
    """Return the session with this key. See `session_of()`."""
    session = _store()(key)
    load = session.load

    def load_only() -> Any:
        # Set on the object: the signature of the data depends on the name of the class.
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
    `SECRET_KEY_FALLBACKS`. The session stays as it is. Blocks for the session and the user.
    """
    copy = _Copy(session.items())
    return get_user(SimpleNamespace(session=copy)), copy.moves  # type: ignore[arg-type]


def session_digest(key: str | None) -> str:
    """Return what stands for a session's key where others may read it; empty for none."""
    text = f"sse_app.session:{key}".encode(errors="surrogatepass")
    return hashlib.sha256(text).hexdigest()[:32] if key else ""


def name_of(key: str | None) -> str:
    """Return the app's name for the session with this key: the key itself; empty without one.

    Where sessions are kept in cookies, the key is the whole session with its signature: then a
    digest of the key is the name, and nothing else of the key is kept.
    """
    if key and issubclass(_store(), CookieStore):
        return session_digest(key)
    return key or ""


def live_sessions(names: Collection[str]) -> set[str]:
    """Return which of the sessions are still there.

    One query for a thousand where sessions are kept in the database. Other stores are asked one by
    one. Sessions in cookies are always there, since no server can take them back.
    """
    store = _store()
    if issubclass(store, CookieStore):
        return set(names)
    if not hasattr(store, "get_model_class"):
        return {name for name in names if store().exists(name)}
    model = store.get_model_class()
    # As `written()`, but by the default manager: a project's own may hide sessions that ended.
    all_sessions = model._default_manager.using(router.db_for_write(model))
    sessions = all_sessions.filter(expire_date__gt=timezone.now())
    live: set[str] = set()
    listed = list(names)
    for start in range(0, len(listed), CHUNK):
        part = listed[start : start + CHUNK]
        live.update(sessions.filter(pk__in=part).values_list("pk", flat=True))
    return live


class _Copy(dict[str, Any]):
    """A copy of a session's content for `get_user()`, which changes the session that it gets."""

    moves = False

    def cycle_key(self) -> None:
        self.moves = True

    def flush(self) -> None:
        self.clear()


def _store() -> Any:
    return import_module(django_settings.SESSION_ENGINE).SessionStore
