"""Admits a request: identifies its user and groups, and asks the policy, before a stream opens.

Checks without a database come first. A temporary problem, such as a session store that is down,
raises `Busy` and not `Refused`: browsers never reconnect after 4xx and 5xx.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, Final, TypeVar

from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import SuspiciousOperation
from django.core.handlers.asgi import ASGIRequest

from ..conf import namespace, settings, written
from ..protocol.events import validate_name
from ..protocol.groups import full_name, own_name
from ..runtime import surroundings
from ..runtime.batches import Batches
from ..runtime.callables import in_thread
from ..runtime.surroundings import surrounded
from ..runtime.telemetry import log_fields
from ..runtime.threads import STORE, WRITES, is_serving
from .authenticators import AuthenticatorFailed, authenticate
from .authorization import PolicyFailed
from .fingerprints import Fingerprint
from .grants import BadGrant, Grant, has_seal, revoked_grants
from .models import AccessToken, Ticket
from .refusals import Refused, not_granted
from .sessions import live_sessions, name_of, session_of, user_of
from .stream_context import PLAIN, ContextFailed, StreamContext, enter_context
from .tickets import redeem
from .tokens import (
    alive_token,
    averify_token,
    bearer_of,
    token_fingerprint,
    token_key,
    visitor_of_token,
)
from .visitors import Visitor, may_be_read_together, read_visitors, visitor_of

logger = logging.getLogger("sse_app")

FORBIDDEN: Final = "Not permitted."

#: Whether a user may listen to groups. The request is None when an open stream is checked again.
Policy = Callable[[Any, Collection[str], ASGIRequest | None], Awaitable[bool]]


_Of = TypeVar("_Of")
_Read = TypeVar("_Read")


class Busy(Exception):
    """The request can't be served now, and the client should retry. The text is the reason."""


class Expired(Exception):
    """A grant or ticket has expired or was revoked. The text is the reason."""


@dataclass
class Access:
    """The groups that a user may listen to, until when (Unix time), and the policy to ask again.

    `granted` are the groups of signed pages: the policy is asked for them only once the user's
    rights have changed. `fingerprint` is the user's fingerprint at the decision. `session_key` is
    the session's name, see `sessions.name_of()`, or a token's, see `tokens.token_key()`.
    `session_moves`: Django will move the session to another key, so the end of the session does not
    mean that the user has signed out. `again` asks whether the request's own credentials still sign
    the user in; None without such credentials. `context` is that of the stream.
    """

    user: Any
    groups: tuple[str, ...]
    policy: Policy | None = None
    granted: frozenset[str] = frozenset()
    until: float | None = None
    session_key: str = field(default="", repr=False)
    session_moves: bool = False
    fingerprint: Fingerprint | None = field(default=None, repr=False)
    token_key: str = ""
    again: Callable[[], Awaitable[bool]] | None = None
    context: StreamContext = PLAIN

    @property
    def user_key(self) -> str:
        """The user's primary key as text, a token's name for it, empty for an anonymous reader."""
        return self.token_key or (str(self.user.pk) if self.user.is_authenticated else "")

    async def refresh(self) -> None:
        """Read the user from the database again, without cached permissions."""
        if self.user.is_authenticated:
            self.user = await _from_store(_read_user, self.user)

    async def permitted(self, groups: Collection[str]) -> list[str]:
        """Return which of `groups` the policy permits now; raises what the policy raises."""
        ask = self.policy
        return [group for group in groups if ask and await ask(self.user, [group], None)]


async def _from_store(read: Callable[[_Of], _Read], of: _Of) -> _Read:
    """Return `read(of)`, which reads the project's sessions or users, in time."""
    seconds = settings().POLICY_SECONDS
    return await in_thread(surrounded(read), of, threads=STORE, seconds=seconds)


def _read_user(user: Any) -> Any:
    # `type()` of a lazy user is the proxy's type. A middleware's user may be no model instance.
    kind = user.__class__
    model = kind if issubclass(kind, get_user_model()) else get_user_model()
    return written(model).get(pk=user.pk)


async def admit(request: ASGIRequest, policy: Policy, fixed: Collection[str] = ()) -> Access:
    """Return the access of `request`; set the request's session and user, and enter its context.

    `fixed` are the groups that were given to `as_asgi()`. Raises `Refused`, `Expired` or `Busy`.
    """
    try:
        context = await enter_context(request.scope)
    except ContextFailed as error:
        raise Busy("context") from error
    access = await _admit(request, policy, fixed)
    access.context = context
    return access


async def _admit(request: ASGIRequest, policy: Policy, fixed: Collection[str]) -> Access:
    bearer = None if fixed else bearer_of(request)
    if bearer is None and not fixed and "ticket" in request.GET:
        return await _admit_by_ticket(request, policy)
    full = partial(full_name, namespace=namespace())
    asked = tuple(map(full, fixed)) or _names(request, "group", full)
    token = None if bearer is None else await _token(bearer)
    if token is not None and token.user_id is None:
        return _admit_program(request, token, asked)
    grants = [] if fixed else _grants_of(request)
    signed = (group for grant in grants for group in grant.groups)
    groups = tuple(dict.fromkeys([*asked, *signed]))
    _check_count(groups)
    access = await (_by_token(request, token) if token else _identify(request))
    access.groups = groups
    if access.fingerprint is not None:
        access.policy = policy
    await _apply_grants(grants, access)
    if not fixed:
        await _ask_policy(access, policy, request)
    return access


def names_of(request: ASGIRequest) -> tuple[str, ...]:
    """Return the event names that the request filters by; raises `Refused`."""
    return _names(request, "event", validate_name)


def flag_of(request: ASGIRequest, key: str) -> bool:
    """Return whether the parameter `key` is "1", and not "0" or missing; raises `Refused`."""
    given = request.GET.getlist(key)
    if given not in ([], ["0"], ["1"]):
        raise Refused(400, f"{key}={','.join(given)[:80]} is neither {key}=1 nor {key}=0.")
    return given == ["1"]


def _names(request: ASGIRequest, key: str, valid: Callable[[object], str]) -> tuple[str, ...]:
    try:
        escaped = next((name for name in request.GET if name.startswith("amp;")), None)
        if escaped is not None:
            # Else the parameter would be ignored silently.
            raise Refused(
                400,
                f"The query has {escaped!r}: this URL was escaped for HTML, and is used where no "
                "browser unescapes it, such as within a <script>. Put it into a data- attribute.",
            )
        return tuple(valid(name) for name in dict.fromkeys(request.GET.getlist(key)))
    except (ValueError, SuspiciousOperation) as error:
        # SuspiciousOperation: more parameters than DATA_UPLOAD_MAX_NUMBER_FIELDS.
        raise Refused(400, str(error)) from error


def _check_count(groups: Collection[str]) -> None:
    most = settings().MAX_GROUPS
    if not groups:
        raise Refused(400, "Name the groups to listen to, for example ?group=orders.")
    if len(groups) > most:
        raise Refused(400, f"{len(groups)} groups are too many: a stream can have {most}.")


def _grants_of(request: ASGIRequest) -> list[Grant]:
    texts = list(dict.fromkeys(request.GET.getlist("grant")))
    if len(texts) > settings().MAX_GROUPS:
        raise Refused(400, f"{len(texts)} grants are too many, more than {settings().MAX_GROUPS}.")
    try:
        return [Grant.read(text) for text in texts]
    except BadGrant as error:
        raise Refused(403, FORBIDDEN) from error


async def _identify(request: ASGIRequest) -> Access:
    """Set the request's session and user; return the user's access, without groups."""
    if (access := await _by_authenticator(request)) is not None:
        return access
    request.session = session_of(request)
    request.user = AnonymousUser()
    if django_settings.SESSION_COOKIE_NAME not in request.COOKIES and "user" not in request.scope:
        return Access(request.user, ())
    try:
        # Read before the policy is asked, so a change meanwhile shows at the next comparison.
        visitor = await _visitor(request)
    except Exception as error:
        logger.warning("The session store did not answer: %r", error, extra=log_fields(error=error))
        raise Busy("store") from error
    request.user, moves, fingerprint = visitor
    key = name_of(request.session.session_key)
    return Access(request.user, (), session_key=key, session_moves=moves, fingerprint=fingerprint)


async def _by_authenticator(request: ASGIRequest) -> Access | None:
    """Return the access of the user whom `AUTHENTICATE` signs in; None if no entry answers."""
    try:
        found = await authenticate(request)
    except Refused:
        raise
    except Exception as error:
        if not isinstance(error, AuthenticatorFailed):  # That has been logged.
            logger.warning("A user can't be read: %r", error, extra=log_fields(error=error))
        raise Busy("authenticate") from error
    if found is None:
        return None
    request.user, request.session = found.visitor.user, SessionBase()
    return Access(request.user, (), fingerprint=found.visitor.fingerprint, again=found.again)


async def _visitor(request: ASGIRequest) -> Visitor:
    # Not in a test: its transaction has one thread and a context that a batch would not have.
    together = "user" not in request.scope and is_serving() and not surroundings.are_set()
    if together and may_be_read_together(request.session):
        async with asyncio.timeout(settings().POLICY_SECONDS):
            visitor = await _batches.result(request.session)
        if visitor is not None:
            return visitor
    return await _from_store(_visitor_alone, request)


def _visitor_alone(request: ASGIRequest) -> Visitor:
    user, moves = request.scope.get("user"), False
    if user is None:
        user, moves = user_of(request.session)
    return visitor_of(user, moves=moves)


async def _visitors(sessions: Sequence[Any]) -> list[Visitor | Exception | None]:
    return await _from_store(read_visitors, sessions)


_batches: Final = Batches(_visitors)


async def _apply_grants(grants: Collection[Grant], access: Access) -> None:
    """Add the groups of `grants` to `access`. One query for all grants, none without grants."""
    if not all(grant.is_for(access.user) for grant in grants):
        hint = f"The page that signed this grant is of another user than {access.user}: reload it."
        raise Refused(403, FORBIDDEN, hint=hint)
    if not grants:
        return
    access.until = min([grant.expires for grant in grants] + [access.until or inf])
    if any(grant.is_expired() for grant in grants):
        raise Expired("expired")
    try:
        revoked = await in_thread(revoked_grants, grants)
    except Exception as error:
        logger.warning(
            "The revocations of a grant can't be read: %r", error, extra=log_fields(error=error)
        )
        raise Busy("grant") from error
    if revoked:
        raise Expired("expired")
    for grant in grants:
        if not grant.user or (access.fingerprint and grant.rights == access.fingerprint.seal):
            access.granted |= frozenset(grant.groups)


async def _token(text: str) -> AccessToken:
    """Return the token with this text. Raises `Refused` or `Busy`."""
    try:
        token = await averify_token(text)
    except Exception as error:
        logger.warning(
            "An access token can't be looked up: %r", error, extra=log_fields(error=error)
        )
        raise Busy("token") from error
    if token is None:
        raise Refused(403, FORBIDDEN)
    return token


def _admit_program(request: ASGIRequest, token: AccessToken, groups: tuple[str, ...]) -> Access:
    _check_count(groups)
    refused = [own_name(group) for group in groups if not token.may_listen(group)]
    if refused:
        hint = (
            f"The token {token.name!r} may not listen to {', '.join(refused)}: sse_token --listen."
        )
        raise Refused(403, FORBIDDEN, hint=hint)
    request.user, request.session = AnonymousUser(), SessionBase()
    number = token.pk

    async def policy(user: Any, groups: Collection[str], request: ASGIRequest | None) -> bool:
        live = await alive_token(number)
        return live is not None and all(live.may_listen(group) for group in groups)

    key = token_key(token)
    access = Access(request.user, groups, policy, session_key=key, token_key=key)
    access.until, access.fingerprint = token.expires_at.timestamp(), token_fingerprint(token)
    return access


async def _by_token(request: ASGIRequest, token: AccessToken) -> Access:
    """Set the request's session and user by a user's token; see `_identify()`."""
    try:
        visitor = await _from_store(visitor_of_token, token)
    except Exception as error:
        logger.warning("A user can't be read: %r", error, extra=log_fields(error=error))
        raise Busy("token") from error
    if visitor is None:
        raise Refused(403, FORBIDDEN)
    request.user, request.session = visitor.user, SessionBase()
    access = Access(request.user, (), session_key=token_key(token), fingerprint=visitor.fingerprint)
    access.until = token.expires_at.timestamp()
    return access


async def _admit_by_ticket(request: ASGIRequest, policy: Policy) -> Access:
    try:
        # A write, as a ticket is used once: reads of sessions and users do not wait for it.
        seconds = settings().POLICY_SECONDS
        work = surrounded(_redeem)
        found = await in_thread(work, request.GET["ticket"], threads=WRITES, seconds=seconds)
    except Exception as error:
        logger.warning("A ticket can't be looked up: %r", error, extra=log_fields(error=error))
        raise Busy("ticket") from error
    if found is None:
        raise Expired("expired")
    ticket, fingerprint = found
    request.user = ticket.user or AnonymousUser()
    request.session = SessionBase()
    try:
        grant = Grant.read(ticket.grant) if ticket.grant else None
    except BadGrant as error:  # SECRET_KEY was changed meanwhile.
        raise Expired("expired") from error
    groups = tuple(dict.fromkeys([*ticket.groups, *(grant.groups if grant else ())]))
    access = Access(request.user, groups, policy)
    access.session_key, access.fingerprint = ticket.session_key, fingerprint
    await _apply_grants([grant] if grant else [], access)
    await _ask_policy(access, policy, request)
    return access


def _redeem(text: str) -> tuple[Ticket, Fingerprint | None] | None:
    """Use up a ticket; None if it is invalid, or its user logged out or has a new password."""
    ticket = redeem(text)
    if ticket is None or ticket.user_id is None:
        return None if ticket is None else (ticket, None)
    if ticket.user is None:
        return None  # The row of the user was deleted by SQL.
    fingerprint = visitor_of(ticket.user).fingerprint
    gone = ticket.session_key and ticket.session_key not in live_sessions([ticket.session_key])
    if gone or fingerprint is None or not has_seal(ticket.user, ticket.seal):
        return None
    return ticket, fingerprint


async def _ask_policy(access: Access, policy: Policy, request: ASGIRequest) -> None:
    undecided = [group for group in access.groups if group not in access.granted]
    try:
        allowed = not undecided or await policy(access.user, undecided, request)
    except PolicyFailed as error:
        raise Busy("policy") from error
    if not allowed:
        hint = not_granted(access.user, map(own_name, undecided))
        # Without LOGGING, Python shows warnings only, and a developer has to see this.
        level = logging.WARNING if django_settings.DEBUG else logging.INFO
        user = access.user_key or None
        logger.log(level, "%s", hint, extra=log_fields(user=user, groups=undecided))
        raise Refused(403, FORBIDDEN, hint=hint)
