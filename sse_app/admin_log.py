"""The entries that actions leave in the admin's log."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.http import HttpRequest


def log_change(request: HttpRequest, obj: Any, message: str) -> None:
    """Note that the request's user did to `obj` what `message` says."""
    log_act(request, obj, obj.pk, str(obj), message)


def log_act(request: HttpRequest, model: Any, id: Any, name: str, message: str) -> None:
    """Note it of what has no row: it is listed under `model`, as `name`."""
    LogEntry.objects.create(
        user_id=request.user.pk or 0,
        content_type_id=get_content_type_for_model(model).pk,
        object_id=id,
        object_repr=name[:200],
        action_flag=CHANGE,
        change_message=message,
    )
