"""Ends streams whose right has ended: `disconnect()`, and receivers of Django's signals.

Once such a call returns, or its transaction has committed, the streams of this process show no
event of a revoked group any more. The other processes read the revocation from the control group
of the event log, even if the channel layer loses the message.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db import models, transaction
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.utils import timezone

from ..conf import namespace, written
from ..protocol.groups import Group, full_name, scoped
from ..publishing import publish
from ..runtime.callables import blocking, in_callers_thread
from ..runtime.telemetry import log_fields
from . import readers
from . import revocations as control
from .fingerprints import many_to_many
from .models import AccessToken, Revocation
from .sessions import name_of, session_digest
from .tokens import token_key
from .user_changes import RIGHTS, changed_fields, note_loaded_users, note_values

#: A change that concerns more users than this is announced once, for the streams of all users.
MOST_NAMED: Final = 20
#: The longest primary key, as text, for which there is room in a row.
MOST_KEY: Final = 64

logger = logging.getLogger("sse_app")


@blocking
def disconnect(*, user: Any = None, group: Group | None = None) -> None:
    """End the streams of `user`; or remove `group` from all streams, or from those of `user`.

    `user`: a user or a primary key. After the call, no new event reaches these streams from this
    process; the other processes follow within `CHECK_INTERVAL`. Inside a transaction all of this
    happens after the commit. The grant of a page rendered before can't open such a stream again.
    If the policy or `PUBLIC_GROUPS` still allows the group, the users can reconnect: so remove
    the permission first.

    Raises `ValueError` without user and group, for an invalid name, and for a user without a
    primary key (an `AnonymousUser`, a deleted user). Raises the errors of the event log.
    """
    if user is None and group is None:
        raise ValueError(
            "disconnect() needs a user, a group or both: disconnect(user=request.user)."
        )
    key = "" if user is None else _scoped(_key_of(user))
    name = "" if group is None else full_name(group, namespace())
    rows = written(Revocation)
    rows.update_or_create(user=key, group=name, defaults={"at": timezone.now()})
    # From here on the other processes find the row in their next round, even if the log fails.
    _revoke(control.Revocation(user=key, group=name), using=rows.db)


def _key_of(user: Any) -> str:
    """Return the primary key as text. Raises `ValueError` unless `user` is a user or a key."""
    if isinstance(user, models.Model) and not isinstance(user, get_user_model()):
        raise ValueError(f"disconnect(user={user!r}): a {type(user).__name__} is not a user.")
    found = getattr(user, "pk", user)
    key = str(found)
    if found is None or isinstance(found, bool) or not 0 < len(key) <= MOST_KEY:
        raise ValueError(
            f"disconnect(user={user!r}): this is not a user with a primary key. Give a saved "
            "user, or the primary key. disconnect(group=…) includes anonymous users' streams."
        )
    return key


def _scoped(key: Any) -> str:
    # Each tenant may have a user 5.
    return scoped(str(key), namespace())


def end_stream(id: str) -> None:
    """End the stream with this id (`Stream.id`), in any process. For the admin.

    The stream ends with the reason `auth`, so its page does not reconnect by itself. No right is
    revoked, so the page can connect once it is loaded again. Raises the errors of the event log.
    """
    _revoke(control.Revocation(stream=id), using=None)


async def adisconnect(*, user: Any = None, group: Group | None = None) -> None:
    """See `disconnect()`."""
    await in_callers_thread(disconnect, user=user, group=group)


def connect_signals() -> None:
    """Connect to Django's signals about users and their rights, once the apps are ready."""
    model: Any = get_user_model()
    user_logged_in.connect(_logged_in, dispatch_uid="sse_app")
    user_logged_out.connect(_logged_out, dispatch_uid="sse_app")
    note_loaded_users(model)
    post_save.connect(_user_saved, sender=model, dispatch_uid="sse_app")
    post_delete.connect(_user_deleted, sender=model, dispatch_uid="sse_app")
    for name in ("groups", "user_permissions"):
        if (field := many_to_many(model, name)) is not None:
            through = field.remote_field.through
            m2m_changed.connect(_rights_changed, sender=through, dispatch_uid="sse_app")
    if (field := many_to_many(model, "groups")) is not None:
        # The model is often Django's `Group`, but a project may have its own roles.
        rights = many_to_many(field.related_model, "permissions")
        if rights is not None:
            through = rights.remote_field.through
            m2m_changed.connect(_rights_changed, sender=through, dispatch_uid="sse_app")
    post_save.connect(_token_saved, sender=AccessToken, dispatch_uid="sse_app")
    post_delete.connect(_token_deleted, sender=AccessToken, dispatch_uid="sse_app")


def _logged_in(sender: Any, request: Any, **kwargs: Any) -> None:
    # `login()` has already replaced the session, so only the request's cookie has the old key. The
    # old session's streams belong to another user, or to the same visitor before the login.
    key = getattr(request, "COOKIES", {}).get(settings.SESSION_COOKIE_NAME)
    session = getattr(request, "session", None)
    if key and session is not None and key != session.session_key:
        _revoke_safely(control.Revocation(session=session_digest(name_of(key))), using=None)


def _logged_out(sender: Any, request: Any, user: Any, **kwargs: Any) -> None:
    if user is None:
        return
    key = getattr(getattr(request, "session", None), "session_key", None)
    # Django may have moved the session to another key during this request.
    cookie = getattr(request, "COOKIES", {}).get(settings.SESSION_COOKIE_NAME)
    ended = sorted({session_digest(name_of(each)) for each in (key, cookie) if each})
    _revoke_safely(*(control.Revocation(session=digest) for digest in ended), using=None)


def _user_saved(
    sender: Any, instance: models.Model, created: bool, using: str, **kwargs: Any
) -> None:
    if created:
        note_values(instance)
        return
    changed = changed_fields(instance, kwargs.get("update_fields"), using)
    if changed:
        # Other fields are rights only if a policy reads them. A save of these costs no query: the
        # event is not stored, so a process that misses it learns of the change by `disconnect()`.
        durable = not changed.isdisjoint(RIGHTS)
        review = control.Revocation(user=_scoped(instance.pk), review=True)
        _revoke_safely(review, using=using, durable=durable)


def _user_deleted(sender: Any, instance: models.Model, using: str, **kwargs: Any) -> None:
    _revoke_safely(control.Revocation(user=_scoped(instance.pk)), using=using)


def _token_saved(
    sender: Any, instance: AccessToken, created: bool, using: str, **kwargs: Any
) -> None:
    if not created:
        _revoke_safely(_revocation_of(instance, review=instance.is_live()), using=using)


def _token_deleted(sender: Any, instance: AccessToken, using: str, **kwargs: Any) -> None:
    _revoke_safely(_revocation_of(instance, review=False), using=using)


def _revocation_of(token: AccessToken, *, review: bool) -> control.Revocation:
    return control.Revocation(session=session_digest(token_key(token)), review=review)


def _rights_changed(
    sender: Any,
    instance: models.Model,
    action: str,
    model: type[models.Model] | None = None,
    pk_set: Collection[Any] | None = None,
    **kwargs: Any,
) -> None:
    if not action.startswith("post_"):
        return
    users: Collection[Any] = ("",)  # All users, where only a query could find the users concerned.
    if isinstance(instance, get_user_model()):
        users = (instance.pk,)
    elif model is not None and issubclass(model, get_user_model()) and pk_set is not None:
        users = pk_set if len(pk_set) <= MOST_NAMED else ("",)
    keys = [_scoped(user) if user != "" else "" for user in users]
    revocations = (control.Revocation(user=key, review=True) for key in keys)
    _revoke_safely(*revocations, using=kwargs.get("using"))


def _revoke_safely(
    *revocations: control.Revocation, using: str | None, durable: bool = True
) -> None:
    """Revoke; log an error instead of raising it, so that a logout or a save does not fail."""
    try:
        _revoke(*revocations, using=using, durable=durable)
    except Exception:
        logger.exception(
            "Other processes find %s only in their next round of checks.",
            ", ".join(map(str, revocations)),
            extra=log_fields(user=revocations[0].user or None, group=revocations[0].group or None),
        )
        for revocation in revocations:
            readers.apply(revocation)


def _revoke(*revocations: control.Revocation, using: str | None, durable: bool = True) -> None:
    if not revocations:
        return
    publish.publish_events([one.to_event(durable) for one in revocations], using=using)
    for revocation in revocations:
        transaction.on_commit(partial(readers.apply, revocation), using=using)
