"""The id of a connection: by it a page says beside which stream it speaks, and is replied to.

A stream finds its connection id in `sse.open`; a page sends it back with what it sends up. It is
signed together with the user, so that nobody can have a reply sent to somebody else. The digest of
a user says whose a connection is, so that only pages of one user share one.
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
    """Return the id of the stream that `user` opened as `connection`, empty if that is not so."""
    try:
        return _signer(user).unsign(connection)
    except BadSignature:
        return ""


def user_digest(user: str) -> str:
    """Return what stands for a `user_key` in pages and in `sse.open`; empty for a stranger.

    The digest is keyed with `SECRET_KEY`: another site has another digest of the same user, and
    nobody can find out the user by trying keys.
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
    """A non-durable event for one stream; `tab` says for which page, of those that share it."""

    durable: bool = False
    stream: str = ""
    tab: str = ""

    @property
    def slot(self) -> tuple[str, ...]:
        return "reply", self.tab, self.name, self.key or ""

    def encode(self, id: str = "", *, labelled: bool = False) -> bytes:
        """Return the event on the wire. No label: it is for whoever spoke, whatever they hear."""
        if not self.tab:
            return self.block
        return b"tab: %b\n%b" % (self.tab.encode("ascii"), self.block)

    def to_event(self) -> Event:
        """Return the control event that takes it to the process of its stream."""
        message = {"group": self.group, "name": self.name, "data": self.data, "key": self.key}
        fields = message | {"stream": self.stream, "tab": self.tab}
        # With a key of its own: none takes the place of another on the way.
        own = secrets.token_hex(8)
        return Event.of_app(CONTROL_GROUP, REPLY_EVENT, fields, durable=False, key=own)

    @classmethod
    def from_event(cls, event: Event) -> Self:
        """Return what a control event holds. Raises `ValueError` or `TypeError` if nothing."""
        reply = cls(**event.json())
        if not isinstance(reply.stream, str) or (reply.tab and not validate_tab(reply.tab)):
            raise TypeError(f"{event.data!r} is no reply")
        return reply
