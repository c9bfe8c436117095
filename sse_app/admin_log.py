"""The entries in the admin's log for actions on objects without a row."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.http import HttpRequest


def log_act(request: HttpRequest, model: Any, id: Any, name: str, message: str) -> None:
    """Write an entry for the request's user: `message`, about `id`, shown as `name` of `model`.

    `ModelAdmin.log_change()` does the same for objects that have a row.
    """
    LogEntry.objects.create(
        user_id=request.user.pk or 0,
        content_type_id=get_content_type_for_model(model).pk,
        object_id=id,
        object_repr=name[:200],
        action_flag=CHANGE,
        change_message=message,
    )
