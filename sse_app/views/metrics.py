"""`GET metrics/`: the metrics for Prometheus, for permitted clients."""

from __future__ import annotations

import logging
from typing import Any

from django.db import Error
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_safe

from ..access import tokens
from ..access.addresses import may_read_metrics
from ..access.authorization import has_permission
from ..conf import namespace
from ..protocol.headers import NO_STORE
from ..runtime.telemetry import log_fields

logger = logging.getLogger("sse_app")

PERMISSION = "sse_app.view_serverprocess"


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer with the metrics of all processes as Prometheus reads them.

    Permitted are clients in `METRICS_ADDRESSES`, programs with a token for it (`sse_token create
    --metrics`), and staff with the permission to view server processes; 403 for all others. 503
    if the database fails, 501 without the package `prometheus_client`.
    """
    try:
        permitted = _is_permitted(request)
    except Error:
        logger.exception(
            "The rights of a request for the metrics can't be read.", extra=log_fields()
        )
        return _text(503, _("Not possible right now."))
    if not permitted:
        return _text(403, _("Not permitted."))
    try:
        from ..metrics import exposition
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "prometheus_client":
            raise
        missing = _('The metrics need a package: pip install "sse-app[metrics]"')
        return _text(501, missing)
    body, content_type = exposition(request.headers.get("Accept", ""))
    return HttpResponse(body, content_type=content_type, headers=NO_STORE)


@sensitive_variables()
def _is_permitted(request: HttpRequest) -> bool:
    scope: Any = getattr(request, "scope", None)
    # By address only under ASGI: WSGI maps two header names to one, so a client could forge it.
    if scope is not None and may_read_metrics(scope):
        return True
    text = tokens.bearer_of(request)
    if text is not None:
        token = tokens.verify_token(text)
        return token is not None and token.metrics
    user: Any = getattr(request, "user", None)
    if namespace():
        return False  # The metrics are those of all tenants.
    # A user model without permissions has no such flag.
    staff = all(getattr(user, name, None) is True for name in ("is_active", "is_staff"))
    return staff and has_permission(user, PERMISSION)


def _text(status: int, text: str) -> HttpResponse:
    return HttpResponse(
        f"{text}\n",
        status=status,
        content_type="text/plain; charset=utf-8",
        headers=NO_STORE,
    )
