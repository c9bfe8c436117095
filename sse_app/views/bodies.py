"""The bodies of requests and answers: a JSON object within limits, and JSON."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from functools import wraps
from itertools import accumulate
from typing import Any, Final

from django.contrib.auth.models import AnonymousUser
from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from django.utils.decorators import decorator_from_middleware
from django.utils.log import log_response
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from ..access import authenticators
from ..access.authorization import PolicyFailed
from ..access.posts import refuse_other_sites
from ..access.refusals import Refused
from ..conf import settings
from ..protocol.events import to_text, validate_published
from ..protocol.groups import validate_group
from ..runtime.telemetry import log_fields

logger = logging.getLogger("sse_app")
#: Django's own, which many projects watch.
_csrf_logger = logging.getLogger("django.security.csrf")

#: More levels than any event needs, and far fewer than overflow the stack of a parser or encoder.
MAX_DEPTH: Final = 32
#: Seconds after which a client may retry.
RETRY_AFTER: Final = 5

# Possessive quantifiers and the optional closing quote keep the match of a body of quotes linear:
# without both it takes the square of its length.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
#: An opening bracket becomes the signed byte 1, a closing one -1.
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[{]}"))


def answers_refusals(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Decorate a sync view: a `Refused` that the view raises becomes its answer."""

    @wraps(view)
    def answering(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except Refused as refused:
            return _answer(refused)

    return answering


def _answer(refused: Refused) -> HttpResponse:
    answer = json_response(refused.status, to_json({"error": refused.message}))
    for name, value in refused.headers.items():
        answer[name] = value
    return answer


def unavailable() -> Refused:
    """Return the refusal of a request that may succeed in a moment."""
    return Refused(503, "Not possible right now.", {"Retry-After": str(RETRY_AFTER)})


def require(permitted: Callable[[], bool]) -> None:
    """Raise `Refused`: 403 unless `permitted()`, 503 if it raises, as a policy may."""
    try:
        answer = permitted()
    except Exception as error:
        if not isinstance(error, PolicyFailed):  # That has been logged.
            logger.exception("The policy failed.", extra=log_fields(error=error))
        raise unavailable() from error
    if not answer:
        raise Refused(403, "Not permitted.")


_NO_TOKEN: Final = (
    " The page's token is missing or old. {% sse_script %} makes it for a signed-in user, and with "
    "SSE_APP['MAY_SPEAK'] for every visitor; so does {% csrf_token %}. Or give it to connect() by "
    "`csrf`."
)


class _CsrfCheck(CsrfViewMiddleware):
    """Django's check. Its failure is an answer of the app, which says what to do."""

    def _reject(self, request: HttpRequest, reason: str) -> HttpResponse:
        advice = _NO_TOKEN if reason.startswith(("CSRF cookie", "CSRF token")) else ""
        answer = _answer(Refused(403, f"{reason}{advice}"))
        log_response(
            "Forbidden (%s): %s",
            reason,
            request.path,
            response=answer,
            request=request,
            logger=_csrf_logger,
        )
        return answer


_csrf_checked: Any = decorator_from_middleware(_CsrfCheck)


def posted_by_pages(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Decorate a sync view for POST requests of pages; a refused request gets a JSON answer.

    A request that `AUTHENTICATE` signs in needs no CSRF token, see `_signs_in()`. Where the project
    has no authentication middleware, or one that sets no user, the request gets an `AnonymousUser`.
    """
    answering = require_POST(answers_refusals(view))
    checked: Callable[..., HttpResponse] = _csrf_checked(answering)

    @csrf_exempt  # Of the project's middleware, which does not know how the request is signed in.
    @answers_refusals
    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        refuse_other_sites(request)
        if _signs_in(request):
            return answering(request, *args, **kwargs)
        if not hasattr(getattr(request, "user", None), "is_authenticated"):
            request.user = AnonymousUser()
        return checked(request, *args, **kwargs)

    return guarded


def _signs_in(request: HttpRequest) -> bool:
    """Whether the user was set by credentials that no page of another site can have sent.

    A browser adds cookies by itself, so with cookies the credentials must be in the header
    `Authorization`. It may add a `Basic` one, but asks before another site's page may send JSON.
    """
    try:
        signed_in = authenticators.sign_in(request)
    except Refused:
        raise
    except Exception as error:
        if not isinstance(error, authenticators.AuthenticatorFailed):  # That has been logged.
            logger.exception("A user can't be read.", extra=log_fields(error=error))
        raise unavailable() from error
    return signed_in and (not request.COOKIES or "Authorization" in request.headers)


def to_json(value: object) -> str:
    """Return `value` as ASCII JSON by Django's encoder. Raises `TypeError` for other values."""
    return json.dumps(value, cls=DjangoJSONEncoder)


def json_response(status: int, text: str) -> HttpResponse:
    """Return a response with `text`, which must be JSON."""
    return HttpResponse(text, status=status, content_type="application/json")


def read_object(request: HttpRequest) -> dict[str, Any]:
    """Return the JSON object in the body of `request`.

    Raises `Refused`: 415 for another content type, 413 beyond `MAX_BODY_BYTES`, 400 for a body
    that is not a JSON object, nests deeper than `MAX_DEPTH`, or has values that UTF-8 or JSON
    can't hold (lone surrogates, NaN, infinity).
    """
    if request.content_type != "application/json":
        raise Refused(415, f"Content-Type is {request.content_type!r}, not 'application/json'.")
    try:
        sent = _read(request)
        text = sent.decode("utf-8-sig")
        _refuse_depth(sent)
        body = json.loads(text)
        to_text(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The body is not usable JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refused(400, f"The body must be a JSON object, not {type(body).__name__}.")
    return body


def read_addressed(request: HttpRequest) -> tuple[str, str, dict[str, Any]]:
    """Return the group, the event and the whole body. Raises `Refused`, see `read_object()`."""
    body = read_object(request)
    try:
        return validate_group(body.get("group")), validate_published(body.get("event")), body
    except ValueError as error:
        raise Refused(
            400, f'The body must be JSON like {{"group": …, "event": …, "data": …}}: {error}'
        ) from error


def _read(request: HttpRequest) -> bytes:
    most = settings().MAX_BODY_BYTES
    try:
        length = int(request.headers.get("Content-Length") or 0)
    except ValueError as error:
        raise Refused(400, "Content-Length is not a number.") from error
    # The header may differ from the length of the body, so both are checked.
    body = b"" if length > most else request.read(most + 1)
    if length > most or len(body) > most:
        raise Refused(413, f"The body is longer than {most} bytes.")
    return body


def _refuse_depth(sent: bytes) -> None:
    """Raise `ValueError` for JSON that nests deeper than `MAX_DEPTH`, before `json` parses it.

    The limit of `json` itself is not safe: in Python 3.13 it is 10,000 levels, and 3,000 to 8,000
    levels overflow a thread's stack of 0.5 to 1 MiB (musl has 1 MiB), which ends the process. A
    loop in Python would block other threads for too long on a body of brackets.
    """
    steps = _STRING.sub(b"", sent).translate(_STEPS, _NO_BRACKETS)
    if max(accumulate(memoryview(steps).cast("b")), default=0) > MAX_DEPTH:
        raise ValueError(f"it nests deeper than {MAX_DEPTH} levels.")
