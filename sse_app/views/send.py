"""The HTTP endpoints beside the stream itself."""

from __future__ import annotations

import logging
from typing import Any, Final

from django.core.exceptions import PermissionDenied, ValidationError
from django.db import Error, OperationalError, transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST

from ..access import authorization, tokens
from ..access.posts import posted_by_pages
from ..access.refusals import Refused
from ..conf import settings
from ..models import AccessToken
from ..protocol.events import Event, validate_published
from ..protocol.groups import validate_group
from ..protocol.replies import stream_of, validate_tab
from ..publishing import idempotency, inbox
from ..publishing import publish as publishing
from ..runtime.telemetry import about
from .bodies import answers_refusals, away, demand, json_response, read_object, to_json
from .throttle import slow_down

logger = logging.getLogger("sse_app")

MAX_KEY: Final = 128

_NOT_WIRED = (
    "This URL is served by sse_app's consumer, and Django's own handler has been asked for it. "
    "Wrap the application in asgi.py, and serve that with an ASGI server such as daphne:\n\n"
    "    from sse_app.asgi import event_stream_application\n"
    "    application = event_stream_application(get_asgi_application())\n\n"
    "If it is: 'runserver' serves it only with \"daphne\" first in INSTALLED_APPS.\n"
)


def stream(request: HttpRequest) -> HttpResponse:
    """Say what is missing in `asgi.py`: the consumer serves this route, and no view can."""
    logger.error(_NOT_WIRED, extra=about())
    return HttpResponse(_NOT_WIRED, status=501, content_type="text/plain; charset=utf-8")


# --- pages ---


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
    slow_down(request)
    group, event, body = _addressed(request)
    demand(lambda: authorization.may_speak(request.user, group, event, request))
    if not inbox.has_handler(event):
        raise Refused(404, f"No handler for the event {event!r}; register it with @on().")
    speaker = authorization.known(request.user)
    stream, tab = _speaks_beside(speaker, body)
    message = inbox.Message(speaker, group, event, body.get("data"), request, stream, tab)
    key = request.headers.get("Idempotency-Key")
    answer = _act(message) if key is None else _act_once(message, key)
    response = json_response(answer.status, answer.text)
    if answer.replayed:
        response["Idempotency-Replayed"] = "true"
    return response


def _addressed(request: HttpRequest) -> tuple[str, str, dict[str, Any]]:
    body = read_object(request)
    try:
        return validate_group(body.get("group")), validate_published(body.get("event")), body
    except ValueError as error:
        raise Refused(
            400, f'The body must be JSON like {{"group": …, "event": …, "data": …}}: {error}'
        ) from error


def _speaks_beside(user: Any, body: dict[str, Any]) -> tuple[str, str]:
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
        said = error.message_dict if hasattr(error, "error_dict") else error.messages
        raise Refused(422, said) from error
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
        return idempotency.once(digest, idempotency.digest_of(message.data), act)
    except idempotency.OtherBody as error:
        raise Refused(422, "This Idempotency-Key belongs to a message with other data.") from error
    except OperationalError as error:
        if began:
            raise
        logger.warning(
            "An idempotency key could not be looked up: %r", error, extra=about(error=error)
        )
        raise away() from error


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


# --- programs ---


@csrf_exempt
@require_POST
@transaction.non_atomic_requests  # the answer carries the offset, which a transaction would delay
@answers_refusals
def publish(request: HttpRequest) -> HttpResponse:
    """Publish one event for a program with a bearer token; answer 202 with its offset.

    The body is `{"group", "event", "data"}` and, if wanted, `"durable": false` and `"key"`, as
    for `publish()`. 401 is no live token, 403 a group or event it may not publish, 400 no such
    body, 413 a body or event too long, 415 not JSON, 503 the event log is away, with
    `Retry-After`; what was sent may have been published then.
    """
    token = _token_of(request)
    group, event, body = _addressed(request)
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
            "The event log did not take an event of a program.",
            extra=about(group=group, event=event, error=error),
        )
        raise away() from error
    return json_response(202, to_json({"group": group, "event": event, "offset": published.offset}))


@sensitive_variables()
def _token_of(request: HttpRequest) -> AccessToken:
    text = tokens.bearer_of(request)
    try:
        token = None if text is None else tokens.verify_token(text)
    except Error as error:
        logger.exception(
            "The database that keeps the access tokens did not answer.", extra=about(error=error)
        )
        raise away() from error
    if token is None:
        # One answer for all, so that it doesn't tell an expired token from a wrong one.
        raise Refused(401, "A valid bearer token is needed.", {"WWW-Authenticate": "Bearer"})
    return token


def _options(body: dict[str, Any]) -> dict[str, Any]:
    durable, key = body.get("durable", True), body.get("key")
    if not isinstance(durable, bool):
        raise Refused(400, f'"durable" must be true or false in JSON, not {durable!r}.')
    if key is not None and not (isinstance(key, str) and len(key) <= MAX_KEY):
        raise Refused(400, f'"key" must be a JSON string of at most {MAX_KEY} characters.')
    return {"durable": durable, "key": key}
