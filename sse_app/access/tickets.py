"""Tickets: one stream, once, within half a minute, for a client that can't send cookies.

A page that is signed in asks for one and hands its URL to the client. Only a digest is kept, and
using a ticket up is deleting its row, so it opens one stream whatever process it comes to.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from datetime import timedelta
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.utils import timezone

from ..conf import written
from .models import Ticket

LIFETIME: Final = timedelta(seconds=30)


def issue(
    user: Any, groups: Collection[str], *, grant: str = "", seal: str = "", session_key: str = ""
) -> str:
    """Return a ticket for `groups` and those of a signed page's `grant`.

    Whether `user` may listen to them is asked when it is used, too. The stream ends with the
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
    """Return the row of `user`, or None if there is no row.

    Another middleware may have made the user from a token, without a row.
    """
    model = get_user_model()
    if not user.is_authenticated or isinstance(user, model):
        return user
    return written(model).filter(pk=user.pk).first()


def redeem(text: str) -> Ticket | None:
    """Use up the ticket and return it with its user; None if there is none, or not any more."""
    ticket = written(Ticket).select_related("user").filter(digest=_digest(text)).first()
    if ticket is None:
        return None
    deleted, _ = written(Ticket).filter(digest=ticket.digest).delete()
    try:
        ticket.session_key = _sealed(text, bytes.fromhex(ticket.session_key)).decode()
    except ValueError:  # A process of an older release, beside which this one may run, wrote it.
        return None
    in_time = ticket.expires_at > timezone.now()
    # Of two that come at once, one finds nothing left to delete.
    return ticket if deleted == 1 and in_time else None


def forget_old() -> int:
    """Delete what nobody used in time; return how many."""
    return int(written(Ticket).filter(expires_at__lt=timezone.now()).delete()[0])


def _sealed(text: str, key: bytes) -> bytes:
    """Seal a session's key by a ticket's text, or open it again.

    A stolen row must not open the session. The text has 256 random bits, is used for one key,
    and of it the row has only a digest.
    """
    pad = hashlib.shake_256(b"sse_app.ticket.session:" + text.encode("utf-8", "replace"))
    return bytes(ours ^ theirs for ours, theirs in zip(key, pad.digest(len(key)), strict=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
