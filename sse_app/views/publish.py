"""`publish/`: programs with a bearer token publish events."""

from __future__ import annotations

import logging
from typing import Any, Final

from django.db import Error
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST

from ..access import tokens
from ..access.models import AccessToken
from ..access.refusals import Refused
from ..conf import settings
from ..protocol.events import Event
from ..publishing import publish as publishing
from ..runtime.telemetry import log_fields
from ..runtime.transactions import non_atomic
from .bodies import answers_refusals, json_response, read_addressed, to_json, unavailable

logger = logging.getLogger("sse_app")

MAX_KEY: Final = 128


@csrf_exempt
@require_POST
@non_atomic  # The answer has the offset, which is known after the commit.
@answers_refusals
def publish(request: HttpRequest) -> HttpResponse:
    """Publish one event for a program with a bearer token; answer 202 with its offset.

    The body is `{"group", "event", "data"}` and optionally `"durable": false` and `"key"`, as for
    `publish()`. Errors: 400 for an invalid body, 401 without a live token, 403 for a group or
    event that the token may not publish, 413 for a body or event that is too long, 415 for
    another content type. 503 with `Retry-After` if the event log or the database fails; the event
    may have been published then.
    """
    token = _token_of(request)
    group, event, body = read_addressed(request)
    if not token.may_publish(group, event):
        raise Refused(403, f"This token may not publish {event!r} to {group!r}.")
    options = _options(body)
    data = body.get("data", "")
    try:
        Event.of(group, event, data).limited(settings().MAX_EVENT_BYTES)
    except ValueError as error:
        raise Refused(413, str(error)) from error
    try:
        published = publishing.publish(group, event, data, **options)
    except Exception as error:
        logger.exception(
            "The event log failed to store an event of a program.",
            extra=log_fields(group=group, event=event, error=error),
        )
        raise unavailable() from error
    return json_response(202, to_json({"group": group, "event": event, "offset": published.offset}))


@sensitive_variables()
def _token_of(request: HttpRequest) -> AccessToken:
    text = tokens.bearer_of(request)
    try:
        token = None if text is None else tokens.verify_token(text)
    except Error as error:
        logger.exception(
            "The database that keeps the access tokens did not answer.",
            extra=log_fields(error=error),
        )
        raise unavailable() from error
    if token is None:
        # The same answer for every reason, so that it doesn't reveal that a token has expired.
        raise Refused(401, "A valid bearer token is needed.", {"WWW-Authenticate": "Bearer"})
    return token


def _options(body: dict[str, Any]) -> dict[str, Any]:
    durable, key = body.get("durable", True), body.get("key")
    if not isinstance(durable, bool):
        raise Refused(400, f'"durable" must be true or false in JSON, not {durable!r}.')
    if key is not None and not (isinstance(key, str) and len(key) <= MAX_KEY):
        raise Refused(400, f'"key" must be a JSON string of at most {MAX_KEY} characters.')
    return {"durable": durable, "key": key}
