"""Tickets: each opens one stream, once, within 30 s, for a client that can't send cookies.

A signed-in page requests a ticket and gives its URL to the client. Only a digest of the ticket is
stored. Using a ticket deletes its row, so it opens only one stream over all processes.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlencode

from django.contrib.auth import get_user_model
from django.db.models import Model
from django.urls import reverse
from django.utils import timezone

from ..conf import namespace, settings, written
from ..protocol.groups import Group, scoped
from ..runtime.callables import blocking, in_callers_thread
from .authorization import active_or_anonymous
from .grants import Grant, seal_of
from .models import Ticket

LIFETIME: Final = timedelta(seconds=30)


@blocking
def issue_ticket(user: Any, groups: Collection[Group]) -> str:
    """Return the URL of a stream of `groups` that opens once, within 30 s, without a cookie.

    For a client that your own view has signed in, for example a mobile app: the view gives it the
    URL. As with a page, no policy is asked: the caller decides on the groups. The stream is that
    of `user`, and ends when the user is deactivated, has a new password, or by `disconnect()`; if
    the user's rights change, `MAY_LISTEN` decides again. With an `AnonymousUser` it ends after
    `GRANT_AGE`. The path is relative to the host, such as `/events/?ticket=…`.

    Writes a row, so inside a transaction the URL works after the commit. Raises `ValueError` for
    an invalid group, none or more than `MAX_GROUPS`, and for a user who is inactive or has no row.
    """
    if isinstance(groups, str | Model) or not 1 <= len(groups) <= settings().MAX_GROUPS:
        raise ValueError(
            f"issue_ticket() got the groups {groups!r}: give 1 to {settings().MAX_GROUPS} names "
            "in a list, for example ['orders']."
        )
    reader = owner_of(active_or_anonymous(user))
    signed_in = getattr(user, "is_authenticated", None)
    if reader is None or reader.is_authenticated is not signed_in:
        raise ValueError(f"issue_ticket() got {user!r}: it is not an active user with a row.")
    grant = Grant.to(reader, groups).sign()
    seal = seal_of(reader) if reader.is_authenticated else ""
    return stream_url("ticket", issue(reader, (), grant=grant, seal=seal))


async def aissue_ticket(user: Any, groups: Collection[Group]) -> str:
    """See `issue_ticket()`."""
    return await in_callers_thread(issue_ticket, user, groups)


def stream_url(key: str, value: str) -> str:
    """Return the path of the stream with one parameter."""
    return f"{reverse('sse_app:stream')}?{urlencode({key: value})}"


def issue(
    user: Any, groups: Collection[str], *, grant: str = "", seal: str = "", session_key: str = ""
) -> str:
    """Return a ticket for `groups` and the groups of a page's signed `grant`.

    The rights of `user` are checked again when the ticket is used. The stream ends with the
    session.
    """
    text = secrets.token_urlsafe(32)
    written(Ticket).create(
        digest=_digest(text),
        user=user if user.is_authenticated else None,
        session_key=_sealed(text, session_key.encode()).hex(),
        seal=seal,
        groups=list(groups),
        grant=grant,
        expires_at=timezone.now() + LIFETIME,
    )
    return text


def owner_of(user: Any) -> Any | None:
    """Return the row of `user`, or None without a row.

    A middleware may have made the user from a token, without a row. An `AnonymousUser` is returned
    as it is.
    """
    model = get_user_model()
    if not user.is_authenticated or isinstance(user, model):
        return user
    return written(model).filter(pk=user.pk).first()


def redeem(text: str) -> Ticket | None:
    """Use up the ticket and return it with its user; None if it is unknown, expired or used."""
    ticket = written(Ticket).select_related("user").filter(digest=_digest(text)).first()
    if ticket is None:
        return None
    deleted, _ = written(Ticket).filter(digest=ticket.digest).delete()
    try:
        ticket.session_key = _sealed(text, bytes.fromhex(ticket.session_key)).decode()
    except ValueError:  # Written by a process of an older release that may still run.
        return None
    in_time = ticket.expires_at > timezone.now()
    # Of two concurrent uses, only one deletes the row.
    return ticket if deleted == 1 and in_time else None


def forget_old() -> int:
    """Delete expired tickets; return their number."""
    return int(written(Ticket).filter(expires_at__lt=timezone.now()).delete()[0])


def _sealed(text: str, key: bytes) -> bytes:
    """Encrypt a session's key with a ticket's text, or decrypt it.

    So a stolen row does not give access to the session: the row has only a digest of the text.
    The text has 256 random bits and encrypts one key only.
    """
    pad = hashlib.shake_256(b"sse_app.ticket.session:" + text.encode("utf-8", "replace"))
    return bytes(ours ^ theirs for ours, theirs in zip(key, pad.digest(len(key)), strict=True))


def _digest(text: str) -> str:
    # With the namespace, so that a ticket of one tenant is unknown to another one.
    return hashlib.sha256(scoped(text, namespace()).encode("utf-8", "replace")).hexdigest()
