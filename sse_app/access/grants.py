"""A grant: what a page may hear, signed for the one it was rendered for.

What the server rendered, the page may hear: the grant in its stream's URL names the groups, and no
policy is asked for them. It is bound to the user by primary key and session auth hash, so it ends
with a password change, and to the rights the user had; and to nobody on a page rendered for an
anonymous visitor, so that such a page can be cached: whoever has the URL may then listen until it
expires.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from django.conf import settings as django_settings
from django.core import signing
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare, salted_hmac

from ..conf import settings, written
from ..protocol.groups import validate_group
from .fingerprints import read_fingerprints
from .models import Revocation

SALT: Final = "sse_app.grant"


class BadGrant(ValueError):
    """The text is no grant that this site signed."""


@dataclass(frozen=True)
class Grant:
    """`groups` for `user` (a primary key as text, empty: anybody), given at Unix time `issued`.

    `seal` stands for the user's session auth hash at that time, `rights` for what the user then
    had of rights.
    """

    groups: tuple[str, ...]
    user: str
    seal: str
    rights: str
    issued: float

    @classmethod
    def to(cls, user: Any, groups: Iterable[str]) -> Self:
        """Return a grant of `groups` to `user`, made now. Raises `ValueError` for a bad name.

        Reads the user's rights by one query.
        """
        names = tuple(validate_group(group) for group in dict.fromkeys(groups))
        # Only False makes a stranger, since everybody can open a stranger's grant. A user made from
        # a JWT may answer None.
        if user is None or user.is_authenticated is False:
            return cls(names, "", "", "", time.time())
        return cls(names, str(user.pk), seal_of(user), _rights_of(user), time.time())

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the grant that `sign()` wrote, expired or not. Raises `BadGrant`."""
        try:
            groups, user, seal, rights, issued = signing.Signer(salt=SALT).unsign_object(text)
        except (signing.BadSignature, ValueError, TypeError) as error:
            raise BadGrant(f"No grant of this site: {text[:40]!r}.") from error
        return cls(tuple(groups), user, seal, rights, issued / 1000)

    def sign(self) -> str:
        """Return the text for the URL; it can be read by anybody and made by nobody else."""
        fields = [self.groups, self.user, self.seal, self.rights, int(self.issued * 1000)]
        return signing.Signer(salt=SALT).sign_object(fields)

    @property
    def expires(self) -> float:
        """The Unix time at which it ends."""
        return self.issued + settings().GRANT_AGE

    def is_expired(self) -> bool:
        """Whether it has expired."""
        return time.time() >= self.expires

    def is_revoked_by(self, row: Revocation) -> bool:
        """Whether `row` takes it back."""
        later = row.at >= datetime.fromtimestamp(self.issued, tz=UTC)
        return later and row.user in ("", self.user) and row.group in ("", *self.groups)

    def has_rights_of(self, user: Any) -> bool:
        """Whether the user's rights are those of then. One query."""
        return not self.user or self.rights == _rights_of(user)

    def is_for(self, user: Any) -> bool:
        """Whether it was made for `user`, who has the same password as then, or for anybody."""
        if not self.user:
            return True
        if not user.is_authenticated or str(user.pk) != self.user:
            return False
        return has_seal(user, self.seal)


def seal_of(user: Any) -> str:
    """Return what stands for the user's session auth hash, which itself is not shown."""
    return _seals(user)[0]


def has_seal(user: Any, seal: str) -> bool:
    """Whether `seal` is the user's still; the keys in `SECRET_KEY_FALLBACKS` count."""
    return any(constant_time_compare(seal, own) for own in _seals(user))


def _rights_of(user: Any) -> str:
    key = str(user.pk)
    found = read_fingerprints([key]).get(key)
    return found.seal if found else ""


def revoked_grants(grants: Collection[Grant]) -> list[Grant]:
    """Return which of `grants` were taken back by `disconnect()` after they were given.

    One query.
    """
    users = {"", *(grant.user for grant in grants)}
    groups = {"", *(group for grant in grants for group in grant.groups)}
    first = datetime.fromtimestamp(min(grant.issued for grant in grants), tz=UTC)
    revoked = list(written(Revocation).filter(at__gte=first, user__in=users, group__in=groups))
    return [grant for grant in grants if any(map(grant.is_revoked_by, revoked))]


def _seals(user: Any) -> list[str]:
    """Return the seal, and those by the keys in `SECRET_KEY_FALLBACKS`."""
    hashes = [""]
    # Not every user is a model's: one that is made from a JWT answers None for any attribute.
    if callable(getattr(user, "get_session_auth_hash", None)):
        hashes = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return [salted_hmac(SALT, text, algorithm="sha256").hexdigest()[:20] for text in hashes]


def user_of_page(request: HttpRequest) -> Any:
    """Return the user of a page's request, None for an anonymous one.

    Without a session cookie the session counts as not looked at: the page must not vary by cookie,
    since then no cache could keep it. The user is looked at all the same, as it may be another
    middleware's, which found it in a header or another cookie.
    """
    user = getattr(request, "user", None)
    if user is None:
        return None
    session: Any = getattr(request, "session", None)
    accessed = getattr(session, "accessed", None)
    stranger = getattr(user, "is_authenticated", False) is False
    if accessed is not None and django_settings.SESSION_COOKIE_NAME not in request.COOKIES:
        session.accessed = accessed
    return None if stranger else user
