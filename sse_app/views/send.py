"""`send/`: pages send messages to handlers."""

from __future__ import annotations

import logging
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse

from ..access import authorization
from ..access.grants import user_key
from ..access.refusals import Refused
from ..protocol.replies import stream_of, validate_tab
from ..publishing import idempotency, inbox
from ..runtime.telemetry import log_fields
from .bodies import json_response, posted_by_pages, read_addressed, require, to_json, unavailable
from .throttle import limit_rate

logger = logging.getLogger("sse_app")


@posted_by_pages
def send(request: HttpRequest) -> HttpResponse:
    """Pass a page's message to its handler, and answer with the return value as JSON.

    The body is `{"group", "event", "data"}` and, for replies to the page, `"connection"`, as in
    `sse.open`, and `"tab"`. Errors: 400 for an invalid body, 403 if not permitted, 404 without a
    handler, 413 for a body that is too long, 415 for another content type, 422 with the messages
    of the handler's `ValidationError`. With `Retry-After`: 429 above the rate (`SPEAK_RATE`,
    `SPEAK_BURST`; per process), 503 if the policy fails.

    With the header `Idempotency-Key` the handlers run in a transaction. If the same user repeats
    the key for the same group and event, the first answer is sent again with
    `Idempotency-Replayed: true`, and no handler runs. Other data under the key is 422. Errors are
    not kept: after an error the handlers run again.
    """
    limit_rate(request)
    group, event, body = read_addressed(request)
    require(lambda: authorization.may_speak(request.user, group, event, request))
    if not inbox.has_handler(event):
        raise Refused(404, f"No handler for the event {event!r}; register it with @on().")
    speaker = authorization.active_or_anonymous(request.user)
    stream, tab = _stream_and_tab(speaker, body)
    message = inbox.Message(speaker, group, event, body.get("data"), request, stream, tab)
    key = request.headers.get("Idempotency-Key")
    answer = _act(message) if key is None else _act_once(message, key)
    response = json_response(answer.status, answer.text)
    if answer.replayed:
        response["Idempotency-Replayed"] = "true"
    return response


def _stream_and_tab(user: Any, body: dict[str, Any]) -> tuple[str, str]:
    """Return the id of the user's stream and the name of the tab; either may be empty."""
    connection, tab = body.get("connection", ""), body.get("tab", "")
    if not isinstance(connection, str):
        raise Refused(400, f'"connection" must be a JSON string, not {connection!r}.')
    try:
        tab = validate_tab(tab) if tab != "" else ""
    except ValueError as error:
        raise Refused(400, str(error)) from error
    # Another user's stream is no error, since a login in another tab leads to it. Its id counts as
    # empty, so that the reply goes to no stream.
    return stream_of(connection, user_key(user) if user.is_authenticated else ""), tab


def _act(message: inbox.Message) -> idempotency.Answer:
    try:
        return idempotency.Answer(200, to_json(inbox.receive(message)))
    except ValidationError as error:
        messages = error.message_dict if hasattr(error, "error_dict") else error.messages
        raise Refused(422, messages) from error
    except PermissionDenied as error:
        raise Refused(403, "Not permitted.") from error


def _act_once(message: inbox.Message, key: str) -> idempotency.Answer:
    try:
        idempotency.validate_key(key)
    except ValueError as error:
        raise Refused(400, str(error)) from error
    began = False

    def act() -> idempotency.Answer:
        nonlocal began
        began = True
        return _act(message)

    digest = idempotency.digest_of(_speaker(message), key, message.group, message.event)
    try:
        return idempotency.run_once(digest, idempotency.digest_of(message.data), act)
    except idempotency.BodyMismatch as error:
        raise Refused(422, "This Idempotency-Key belongs to a message with other data.") from error
    except OperationalError as error:
        if began:
            raise
        logger.warning(
            "An idempotency key could not be looked up: %r", error, extra=log_fields(error=error)
        )
        raise unavailable() from error


def _speaker(message: inbox.Message) -> str:
    # The CSRF secret distinguishes anonymous users: it was just verified. Their address does not:
    # users who share an address would get each other's answers.
    if message.user.is_authenticated:
        return f"user {user_key(message.user)}"
    secret = message.request.META.get("CSRF_COOKIE")
    if secret is None:
        raise Refused(
            400,
            "An Idempotency-Key needs a signed-in user or the CSRF cookie: without both, one "
            "visitor could get another visitor's answer. In a test, sign in or use "
            "Client(enforce_csrf_checks=True).",
        )
    return f"csrf {secret}"
