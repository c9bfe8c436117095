"""The entries that actions leave in the admin's log."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.http import HttpRequest


def log_change(request: HttpRequest, obj: Any, message: str) -> None:
    """Note that the request's user did to `obj` what `message` says."""
    LogEntry.objects.create(
        user_id=request.user.pk or 0,
        content_type_id=get_content_type_for_model(obj).pk,
        object_id=obj.pk,
        object_repr=str(obj)[:200],
        action_flag=CHANGE,
        change_message=message,
    )
