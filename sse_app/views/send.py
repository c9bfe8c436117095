"""`send/`: what pages send up."""

from __future__ import annotations

import logging
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse

from ..access import authorization
from ..access.refusals import Refused
from ..protocol.replies import stream_of, validate_tab
from ..publishing import idempotency, inbox
from ..runtime.telemetry import log_fields
from .bodies import json_response, posted_by_pages, read_addressed, require, to_json, unavailable
from .throttle import limit_rate

logger = logging.getLogger("sse_app")


@posted_by_pages
def send(request: HttpRequest) -> HttpResponse:
    """Take what a page sends up and answer what its handler returns, as JSON.

    The body is `{"group", "event", "data"}` and, for who wants to be replied to, `"connection"`,
    as `sse.open` gave it, and `"tab"`. 400 is no such object, 403 not permitted, 404 no such
    handler, 413 too long, 415 not JSON, 422 what the handler's `ValidationError` says, 429 too
    fast (`SPEAK_RATE`, `SPEAK_BURST`; per process), 503 where the policy fails, both with
    `Retry-After`.

    With a header `Idempotency-Key` the handlers run in a transaction, and a repeat by the same
    speaker to the same group and event gets the first answer again, marked by
    `Idempotency-Replayed: true`, and nothing acts; another body under the key is 422. Only what
    was done is kept: after an error a repeat acts.
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
    """Return the id of the speaker's stream and the name of the tab, empty for what it isn't."""
    connection, tab = body.get("connection", ""), body.get("tab", "")
    if not isinstance(connection, str):
        raise Refused(400, f'"connection" must be a JSON string, not {connection!r}.')
    try:
        tab = validate_tab(tab) if tab != "" else ""
    except ValueError as error:
        raise Refused(400, str(error)) from error
    # Another one's, as after a login in another tab, is no error: there is nobody to reply to.
    return stream_of(connection, str(user.pk) if user.is_authenticated else ""), tab


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
    # A stranger is told from others by the secret of the CSRF check that was just passed: no
    # address, since whoever shares one would be given the other's answer.
    if message.user.is_authenticated:
        return f"user {message.user.pk}"
    secret = message.request.META.get("CSRF_COOKIE")
    if secret is None:
        raise Refused(
            400,
            "An Idempotency-Key needs a user who is signed in, or the CSRF cookie: without both, "
            "one visitor's repeat would be given another visitor's answer. In a test, sign in or "
            "make the client with Client(enforce_csrf_checks=True).",
        )
    return f"csrf {secret}"
