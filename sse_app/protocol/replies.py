"""The connection id, by which a page names its own stream when it sends, and `Reply`.

A page gets its connection id with `sse.open`, and sends it with each message. The id is signed
together with the user, so that no user can have a reply sent to another user's stream. The digest
of a user identifies the user to pages, so that only pages of one user share a stream.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Final, Self

from django.core.signing import BadSignature, Signer
from django.utils.crypto import salted_hmac

from .events import Event
from .groups import CONTROL_GROUP

REPLY_EVENT: Final = "reply"

_TAB: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z", re.ASCII)


def connection_id(stream: str, user: str) -> str:
    """Return the connection id of the stream with the id `stream`; `user` is its `user_key`."""
    return _signer(user).sign(stream)


def stream_of(connection: str, user: str) -> str:
    """Return the stream's id in the connection id `connection`, "" if it is not of `user`."""
    try:
        return _signer(user).unsign(connection)
    except BadSignature:
        return ""


def user_digest(user: str) -> str:
    """Return the digest of a `user_key` for pages and `sse.open`; "" for an anonymous reader.

    The digest is keyed with `SECRET_KEY`. So sites have different digests of the same user, and
    users can't be guessed from it.
    """
    return salted_hmac("sse_app.user", user, algorithm="sha256").hexdigest()[:16] if user else ""


def validate_tab(tab: object) -> str:
    """Return `tab` if it can name a page that shares a stream, else raise `ValueError`."""
    if isinstance(tab, str) and _TAB.match(tab):
        return tab
    raise ValueError(f"Invalid tab {tab!r}: 1 to 64 ASCII letters, digits, '_' and '-'.")


def _signer(user: str) -> Signer:
    return Signer(salt=f"sse_app.connection {user}")


@dataclass(frozen=True, kw_only=True)
class Reply(Event):
    """A non-durable event for one stream; `tab` names one of the pages that share the stream."""

    durable: bool = False
    stream: str = ""
    tab: str = ""

    @property
    def slot(self) -> tuple[str, ...]:
        return "reply", self.tab, self.name, self.key or ""

    def encode(self, id: str = "", *, labelled: bool = False) -> bytes:
        """Return the event on the wire. Never labelled, as a reply does not depend on groups."""
        if not self.tab:
            return self.block
        return b"tab: %b\n%b" % (self.tab.encode("ascii"), self.block)

    def to_event(self) -> Event:
        """Return the control event that carries the reply to the process of its stream."""
        message = {"group": self.group, "name": self.name, "data": self.data, "key": self.key}
        fields = message | {"stream": self.stream, "tab": self.tab}
        # With a unique key, so that no reply replaces another one in a reader that lags.
        own = secrets.token_hex(8)
        return Event.of_app(CONTROL_GROUP, REPLY_EVENT, fields, durable=False, key=own)

    @classmethod
    def from_event(cls, event: Event) -> Self:
        """Return the reply in a control event. Raises `ValueError` or `TypeError` if invalid."""
        reply = cls(**event.json())
        if not isinstance(reply.stream, str) or (reply.tab and not validate_tab(reply.tab)):
            raise TypeError(f"{event.data!r} is not a reply")
        return reply
