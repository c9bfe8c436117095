"""Creates, verifies and revokes bearer tokens, of programs and of users.

A token's text is `sse_<number>_<secret>`. The row with this number has a SHA-256 digest of the
secret, never the secret itself. A slow hash is not needed: nobody can guess 256 random bits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Iterable
from datetime import timedelta
from typing import Any, Final, cast

from django.contrib.auth import get_user_model
from django.core.exceptions import ObjectDoesNotExist
from django.http import HttpRequest
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from ..conf import namespace, written
from ..protocol.groups import scoped, validate_pattern
from ..runtime.callables import blocking, in_callers_thread, in_thread
from .authorization import active_or_anonymous
from .fingerprints import Fingerprint
from .grants import has_seal, seal_of
from .models import AccessToken
from .visitors import Visitor, visitor_of

SECRET_BYTES: Final = 32

# At most 18 digits, so that no number exceeds the database's integer type.
_TOKEN: Final = re.compile(r"sse_([0-9]{1,18})_([A-Za-z0-9_-]{43})\Z", re.ASCII)
#: Only a bearer token with this prefix is one of ours; a JWT belongs to another middleware.
_BEARER: Final = re.compile(r" *bearer +(?-i:(sse_\S*)) *\Z", re.ASCII | re.IGNORECASE)
_EVENT_PATTERN: Final = re.compile(r"[A-Za-z0-9_.:*-]{1,64}\Z", re.ASCII)
_NOBODY: Final = "0" * 64
_KEY: Final = "token:"


def validate_event_pattern(pattern: object) -> str:
    """Return `pattern` if it is an event-name pattern such as `row.*`, else raise `ValueError`."""
    if not isinstance(pattern, str) or not _EVENT_PATTERN.match(pattern):
        raise ValueError(
            f"Invalid event pattern {pattern!r}: an event name in which '*' stands for any "
            "characters, for example 'row.*'."
        )
    return pattern


@sensitive_variables("secret")
def create_token(
    name: str,
    *,
    listen: Iterable[str] = (),
    publish: Iterable[str] = (),
    events: Iterable[str] = (),
    metrics: bool = False,
    lifetime: timedelta,
    user: Any = None,
) -> tuple[AccessToken, str]:
    """Create a token; return its row and its text, which is not stored.

    `listen`: patterns of the groups that the token may read. `publish` and `events`: patterns of
    the groups it may publish to and of the event names it may publish there. An empty list permits
    nothing. `metrics`: whether the token may read the metrics. `user`: see `issue_token()`.
    Raises `ValueError` for an invalid pattern, for a name that is empty, unprintable, longer than
    100 characters or a number, and for a lifetime that is not above 0 or ends beyond year 9999.
    """
    secret = secrets.token_urlsafe(SECRET_BYTES)
    token = written(AccessToken).create(
        name=_validate_name(name),
        digest=_digest(secret),
        listen=[validate_pattern(pattern) for pattern in listen],
        publish=[validate_pattern(pattern) for pattern in publish],
        events=[validate_event_pattern(pattern) for pattern in events],
        metrics=metrics,
        expires_at=_end(lifetime),
        user=user,
        seal="" if user is None else seal_of(user),
    )
    return token, f"sse_{token.pk}_{secret}"


@sensitive_variables()
@blocking
def issue_token(user: Any, *, name: str, lifetime: timedelta) -> str:
    """Return a bearer token that signs `user` in, for a client that keeps it, as a mobile app.

    The client sends it as `Authorization: Bearer …` for streams, `send/`, `ticket/` and `renew/`,
    and has the rights of the user there, and nowhere else. `name` tells the tokens of a user apart,
    for example "phone". The token ends after `lifetime`, by `revoke_tokens()`, by an action in the
    admin, and when the user is deactivated, deleted or has a new password; its streams end then.
    The text is not stored, so it can't be shown again.

    Raises `ValueError` for a user who is inactive or has no row, and for a name or a lifetime that
    is invalid.
    """
    owner = active_or_anonymous(user)
    if not isinstance(owner, get_user_model()) or owner.pk is None:
        raise ValueError(f"issue_token() got {user!r}: it is not an active user with a row.")
    return create_token(name, lifetime=lifetime, user=owner)[1]


async def aissue_token(user: Any, *, name: str, lifetime: timedelta) -> str:
    """See `issue_token()`."""
    return await in_callers_thread(issue_token, user, name=name, lifetime=lifetime)


@blocking
def revoke_tokens(user: Any, *, name: str | None = None) -> int:
    """End the tokens of `user`, or only those with this `name`; return how many were valid.

    Their streams end as by `disconnect()`. Inside a transaction this happens after the commit.
    """
    tokens = written(AccessToken).filter(user=user.pk, revoked_at=None)
    return sum(map(revoke_token, tokens if name is None else tokens.filter(name=name)))


async def arevoke_tokens(user: Any, *, name: str | None = None) -> int:
    """See `revoke_tokens()`."""
    return await in_callers_thread(revoke_tokens, user, name=name)


@sensitive_variables()
def verify_token(text: str) -> AccessToken | None:
    """Return the token with this text; None unless it exists, is live and has this secret.

    One query; none if `text` does not have the form of a token. The time it takes reveals neither
    the secret nor whether the number exists. Raises `django.db.Error` if the database fails, and
    nothing else for any `text`.
    """
    match = _TOKEN.match(text)
    if match is None:
        return None
    token = written(AccessToken).filter(pk=int(match[1])).first()
    genuine = hmac.compare_digest(_digest(match[2]), _NOBODY if token is None else token.digest)
    return token if token is not None and genuine and token.is_live() else None


def visitor_of_token(token: AccessToken) -> Visitor | None:
    """Return the visitor whom the token of a user signs in; None if the user can't sign in.

    Blocks to read the user and the fingerprint.
    """
    try:
        visitor = visitor_of(token.user)
    except ObjectDoesNotExist:
        return None  # The row of the user was deleted by SQL.
    has_same_password = visitor.fingerprint is not None and has_seal(visitor.user, token.seal)
    return visitor if has_same_password else None


async def averify_token(text: str) -> AccessToken | None:
    """See `verify_token()`."""
    return await in_thread(verify_token, text)


def live_token(pk: int) -> AccessToken | None:
    """Return the token with this primary key if it is still live. Does not verify a secret."""
    token = written(AccessToken).filter(pk=pk).first()
    return token if token is not None and token.is_live() else None


async def alive_token(pk: int) -> AccessToken | None:
    """See `live_token()`."""
    return await in_thread(live_token, pk)


def token_key(token: AccessToken) -> str:
    """Return the name that a token has in place of a session; also a program's `user_key`."""
    return f"{_KEY}{token.pk}"


def is_token_key(key: str) -> bool:
    """Whether `key` is a `token_key()`."""
    return key.startswith(_KEY)


def token_fingerprint(token: AccessToken) -> Fingerprint:
    """Return the rights of `token`, to compare later."""
    return Fingerprint(token.is_live(), token.digest[:16], (tuple(token.listen),))


def read_token_fingerprints(keys: Collection[str]) -> dict[str, Fingerprint]:
    """Return the fingerprints of the tokens among `keys`, by key. One query, or none."""
    numbers = [int(key.removeprefix(_KEY)) for key in keys if is_token_key(key)]
    found = written(AccessToken).filter(pk__in=numbers) if numbers else ()
    return {token_key(token): token_fingerprint(token) for token in found}


@sensitive_variables()
def bearer_of(request: HttpRequest) -> str | None:
    """Return this app's bearer token from the Authorization header, None without one.

    All other content of the header is ignored. Servers join several such headers by commas. With
    two different tokens the returned text is invalid. A token in the query is never read, since
    URLs are kept in logs, histories and referrers.
    """
    parts = request.headers.get("Authorization", "").split(",")
    found = {match[1] for match in map(_BEARER.match, parts) if match}
    return ",".join(sorted(found)) if found else None


def revoke_token(token: AccessToken) -> bool:
    """Revoke `token` now; return False if it was revoked before. Saves it, with signals."""
    if token.revoked_at is not None:
        return False
    token.revoked_at = timezone.now()
    token.save(using=written(AccessToken).db, update_fields=["revoked_at"])
    return True


def _digest(secret: str) -> str:
    # With the namespace, so that a token of one tenant is invalid at another one.
    return hashlib.sha256(scoped(secret, namespace()).encode()).hexdigest()


def _validate_name(name: Any) -> str:
    usable = isinstance(name, str) and name.strip() and name.isprintable() and len(name) <= 100
    if not usable or name.isdecimal():
        raise ValueError(
            f"Invalid token name {name!r}: 1 to 100 printable characters, not a number alone, "
            "for example 'importer'."
        )
    return cast("str", name)


def _end(lifetime: timedelta) -> Any:
    if lifetime <= timedelta(0):
        raise ValueError(f"A token's lifetime must be above 0, not {lifetime}.")
    try:
        return timezone.now() + lifetime
    except OverflowError as error:
        raise ValueError(f"A token's lifetime of {lifetime} ends beyond the year 9999.") from error
