"""`renew/` and `ticket/`: a page gets a fresh grant, or a ticket for a stream."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse

from ..access import authorization, tickets
from ..access.authenticators import has_session
from ..access.grants import BadGrant, Grant, revoked_grants, seal_of
from ..access.refusals import Refused
from ..access.sessions import name_of
from ..conf import namespace, settings
from ..protocol.groups import full_name
from .bodies import json_response, posted_by_pages, read_object, require, to_json
from .throttle import limit_rate

_FORBIDDEN = "Not permitted."


@posted_by_pages
def renew(request: HttpRequest) -> HttpResponse:
    """Answer `{"grant": "…"}`, expired or not, with a fresh grant: `{"grant", "url"}`.

    The grant may be old, so the policy is asked for each of its groups again: 403 if the policy
    refuses one, or if the grant was made for another user.
    """
    limit_rate(request)
    grant = _grant_of(read_object(request), request)
    _ask_policy(request, grant.groups)
    fresh = Grant.to(request.user, grant.groups).sign()
    return json_response(200, to_json({"grant": fresh, "url": tickets.stream_url("grant", fresh)}))


@posted_by_pages
def ticket(request: HttpRequest) -> HttpResponse:
    """Answer with the URL of a stream that opens once, within 30 s, without a cookie.

    The answer is `{"url", "expires_in"}`. The body names the groups of the stream:
    `{"groups": […]}`, `{"grant": "…"}` or both. 403 for a group or grant that is not permitted, 400
    for an invalid or missing name.
    """
    limit_rate(request)
    body = read_object(request)
    grant = _valid_grant(body, request) if "grant" in body else None
    granted = grant.groups if grant else ()
    asked = _groups_of(body)
    groups = list(dict.fromkeys([*asked, *granted]))
    if not groups or len(groups) > settings().MAX_GROUPS:
        raise Refused(400, f'Name 1 to {settings().MAX_GROUPS} groups: {{"groups": ["orders"]}}.')
    own = [group for group in asked if group not in granted]
    _ask_policy(request, own)
    reader = tickets.owner_of(authorization.active_or_anonymous(request.user))
    if reader is None:
        raise Refused(
            403, "A ticket needs an anonymous user, or a user with a row in the database."
        )
    signed_in = reader.is_authenticated
    text = tickets.issue(
        reader,
        own,
        grant=grant.sign() if grant else "",
        seal=seal_of(reader) if signed_in else "",
        session_key=name_of(_session_key(request)) if signed_in else "",
    )
    seconds = int(tickets.LIFETIME.total_seconds())
    return json_response(
        200, to_json({"url": tickets.stream_url("ticket", text), "expires_in": seconds})
    )


def _session_key(request: HttpRequest) -> str:
    # A user that another middleware set, for example from a header, may have no session.
    if not has_session(request):
        return ""
    return getattr(getattr(request, "session", None), "session_key", None) or ""


def _groups_of(body: dict[str, Any]) -> list[str]:
    groups = body.get("groups", [])
    if not isinstance(groups, list):
        raise Refused(400, f'"groups" must be a JSON array of names, not {type(groups).__name__}.')
    try:
        return [full_name(group, namespace()) for group in groups]
    except ValueError as error:
        raise Refused(400, str(error)) from error


def _grant_of(body: dict[str, Any], request: HttpRequest) -> Grant:
    try:
        grant = Grant.read(str(body.get("grant")))
    except BadGrant as error:
        raise Refused(403, _FORBIDDEN) from error
    if not grant.is_for(authorization.active_or_anonymous(request.user)):
        raise Refused(403, _FORBIDDEN)
    return grant


def _valid_grant(body: dict[str, Any], request: HttpRequest) -> Grant:
    """Return the body's grant if it is valid; an expired one needs `renew()`."""
    grant = _grant_of(body, request)
    if grant.is_expired() or revoked_grants([grant]) or not grant.has_rights_of(request.user):
        raise Refused(403, "The grant has expired or was revoked: renew it.")
    return grant


def _ask_policy(request: HttpRequest, groups: Any) -> None:
    require(lambda: authorization.may_listen_from_sync(request.user, groups, request))
