"""`Grant`: the groups that a page may listen to, signed for the user it was rendered for.

The URL of a page's stream carries the grant. The policy is not asked for the groups of a grant,
since the server chose them when it rendered the page. A grant is bound to its user by primary key,
session auth hash and rights, so it ends with a password change. On a page for an anonymous visitor
the grant is bound to no user, so that the page can be cached: everybody with the URL may then
listen until the grant expires.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

from django.conf import settings as django_settings
from django.core import signing
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare, salted_hmac

from ..conf import namespace, settings, stored_time, written
from ..protocol.groups import Group, full_name, own_name, scoped
from .fingerprints import read_fingerprints
from .models import Revocation

SALT: Final = "sse_app.grant"


class BadGrant(ValueError):
    """The text is not a grant signed by this site."""


@dataclass(frozen=True)
class Grant:
    """`groups` for `user` (a `user_key()`; empty: any user), made at Unix time `issued`.

    The groups have their full names, see `protocol.groups`; the signed text has their own names.

    `seal` is a digest of the user's session auth hash at that time, `rights` one of the rights.
    """

    groups: tuple[str, ...]
    user: str
    seal: str
    rights: str
    issued: float

    @classmethod
    def to(cls, user: Any, groups: Iterable[Group]) -> Self:
        """Return a grant of `groups` to `user`, made now. Raises `ValueError` for an invalid name.

        Reads the user's rights by one query.
        """
        names = tuple(dict.fromkeys(full_name(group, namespace()) for group in groups))
        # Only False means anonymous, since everybody can use an anonymous grant. A user made from a
        # JWT may return None for any attribute.
        if user is None or user.is_authenticated is False:
            return cls(names, "", "", "", time.time())
        return cls(names, user_key(user), seal_of(user), _rights_of(user), time.time())

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the grant that `sign()` wrote, expired or not. Raises `BadGrant`."""
        try:
            groups, user, seal, rights, issued = _signer().unsign_object(text)
            names = tuple(full_name(group, namespace()) for group in groups)
        except (signing.BadSignature, ValueError, TypeError) as error:
            raise BadGrant(f"Not a grant of this site: {text[:40]!r}.") from error
        return cls(names, user, seal, rights, issued / 1000)

    def sign(self) -> str:
        """Return the signed text for the URL. It is not encrypted."""
        names = tuple(map(own_name, self.groups))  # The page's script reads them.
        fields = [names, self.user, self.seal, self.rights, int(self.issued * 1000)]
        return _signer().sign_object(fields)

    @property
    def expires(self) -> float:
        """The Unix time at which the grant expires."""
        return self.issued + settings().GRANT_AGE

    def is_expired(self) -> bool:
        """Whether the grant has expired."""
        return time.time() >= self.expires

    def is_revoked_by(self, row: Revocation) -> bool:
        """Whether `row` revokes the grant."""
        later = row.at >= stored_time(self.issued)
        return later and row.user in ("", self.user) and row.group in ("", *self.groups)

    def has_rights_of(self, user: Any) -> bool:
        """Whether the user's rights are unchanged since the grant was made. One query."""
        return not self.user or self.rights == _rights_of(user)

    def is_for(self, user: Any) -> bool:
        """Whether the grant is for any user, or for `user` with an unchanged password."""
        if not self.user:
            return True
        if not user.is_authenticated or user_key(user) != self.user:
            return False
        return has_seal(user, self.seal)


def user_key(user: Any) -> str:
    """Return the primary key of `user` as text, with the namespace before it."""
    return scoped(str(user.pk), namespace())


def _signer() -> signing.Signer:
    # A grant of one tenant is no grant in another one.
    return signing.Signer(salt=scoped(SALT, namespace()))


def seal_of(user: Any) -> str:
    """Return a digest of the user's session auth hash, which must stay secret."""
    return _seals(user)[0]


def has_seal(user: Any, seal: str) -> bool:
    """Whether `seal` is still the user's; the keys in `SECRET_KEY_FALLBACKS` count."""
    return any(constant_time_compare(seal, own) for own in _seals(user))


def _rights_of(user: Any) -> str:
    key = str(user.pk)
    found = read_fingerprints([key]).get(key)
    return found.seal if found else ""


def revoked_grants(grants: Collection[Grant]) -> list[Grant]:
    """Return those of `grants` that a later `disconnect()` revoked. One query."""
    users = {"", *(grant.user for grant in grants)}
    groups = {"", *(group for grant in grants for group in grant.groups)}
    first = stored_time(min(grant.issued for grant in grants))
    revoked = list(written(Revocation).filter(at__gte=first, user__in=users, group__in=groups))
    return [grant for grant in grants if any(map(grant.is_revoked_by, revoked))]


def _seals(user: Any) -> list[str]:
    """Return the seal, and the seals made with the keys in `SECRET_KEY_FALLBACKS`."""
    hashes = [""]
    # A user may be no model instance: one made from a JWT may return None for any attribute.
    if callable(getattr(user, "get_session_auth_hash", None)):
        hashes = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return [salted_hmac(SALT, text, algorithm="sha256").hexdigest()[:20] for text in hashes]


def user_of_page(request: HttpRequest) -> Any:
    """Return the user of a page's request, None for an anonymous user.

    Reading the user marks the session as accessed, and Django then adds `Vary: Cookie`, so no cache
    could keep the page. Without a session cookie this mark is reset. The user is read all the
    same, since another middleware may have set it from a header or another cookie.
    """
    user = getattr(request, "user", None)
    if user is None:
        return None
    session: Any = getattr(request, "session", None)
    accessed = getattr(session, "accessed", None)
    anonymous = getattr(user, "is_authenticated", False) is False
    if accessed is not None and django_settings.SESSION_COOKIE_NAME not in request.COOKIES:
        session.accessed = accessed
    return None if anonymous else user
