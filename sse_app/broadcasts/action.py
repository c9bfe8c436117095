"""`BroadcastActionMixin`: the admin action that broadcasts the selected rows of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.contrib import admin, messages
from django.db import models, transaction
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from ..access.authorization import has_permission
from ..publishing.publish import publish_many
from .admin import PERMISSION

#: The most rows of one broadcast: "select all" may select a whole table.
MOST_SELECTED: Final = 1000

if TYPE_CHECKING:
    _Mixed = admin.ModelAdmin
else:
    _Mixed = object


class BroadcastActionMixin(_Mixed):
    """Adds the action "Broadcast selected" to a `ModelAdmin`.

    The events go to the group `broadcast_group` with the name `broadcast_event` and the data that
    `broadcast_data(obj)` returns.
    """

    broadcast_group: str = ""
    broadcast_event: str = "broadcast"

    @admin.action(description=_("Broadcast selected %(verbose_name_plural)s"))
    def broadcast_selected(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        """Publish one event and write one `LogEntry` per selected row; all or none."""
        if not has_permission(request.user, PERMISSION):
            self.message_user(
                request, _("You lack the permission %s.") % PERMISSION, messages.ERROR
            )
            return
        group, event = self.broadcast_group, self.broadcast_event
        objects = list(queryset[: MOST_SELECTED + 1])
        if len(objects) > MOST_SELECTED:
            text = _("Select at most %d rows to broadcast.") % MOST_SELECTED
            self.message_user(request, text, messages.ERROR)
            return
        try:
            with transaction.atomic():
                publish_many((group, event, self.broadcast_data(obj)) for obj in objects)
                for obj in objects:
                    self.log_change(request, obj, f"Broadcast to {group} as {event}.")
        except (TypeError, ValueError) as error:
            self.message_user(request, _("Nothing was sent: %s") % error, messages.ERROR)
            return
        text = ngettext("%d broadcast was sent.", "%d broadcasts were sent.", len(objects))
        self.message_user(request, text % len(objects))

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Add the action for users with the permission to send broadcasts."""
        actions = dict(super().get_actions(request))
        if has_permission(request.user, PERMISSION):
            actions["broadcast_selected"] = self.get_action("broadcast_selected")
        return actions

    def broadcast_data(self, obj: Any) -> Any:
        """Return the data of the event of `obj`."""
        return {"pk": obj.pk, "text": str(obj)}
