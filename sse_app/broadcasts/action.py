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

#: How many rows of a list are broadcast at once: "select all" may mean a whole table.
MOST_SELECTED: Final = 1000

if TYPE_CHECKING:
    _Mixed = admin.ModelAdmin
else:
    _Mixed = object


class BroadcastActionMixin(_Mixed):
    """Adds the action "Broadcast selected" to a `ModelAdmin`.

    `broadcast_group` and `broadcast_event` say where it goes and under which name,
    `broadcast_data(obj)` what.
    """

    broadcast_group: str = ""
    broadcast_event: str = "broadcast"

    @admin.action(description=_("Broadcast selected %(verbose_name_plural)s"))
    def broadcast_selected(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        """Publish one event per selected row, with a `LogEntry` each; all or none."""
        if not has_permission(request.user, PERMISSION):
            self.message_user(
                request, _("You lack the permission %s.") % PERMISSION, messages.ERROR
            )
            return
        group, event = self.broadcast_group, self.broadcast_event
        objects = list(queryset[: MOST_SELECTED + 1])
        if len(objects) > MOST_SELECTED:
            many = _("Select at most %d rows to broadcast.") % MOST_SELECTED
            self.message_user(request, many, messages.ERROR)
            return
        try:
            with transaction.atomic():
                publish_many((group, event, self.broadcast_data(obj)) for obj in objects)
                for obj in objects:
                    self.log_change(request, obj, f"Broadcast to {group} as {event}.")
        except (TypeError, ValueError) as error:
            said = _("Nothing was sent: %s") % error
            self.message_user(request, said, messages.ERROR)
            return
        sent = ngettext("%d broadcast was sent.", "%d broadcasts were sent.", len(objects))
        self.message_user(request, sent % len(objects))

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Offer the action to those who may send."""
        actions = dict(super().get_actions(request))
        if has_permission(request.user, PERMISSION):
            actions["broadcast_selected"] = self.get_action("broadcast_selected")
        return actions

    def broadcast_data(self, obj: Any) -> Any:
        """Return what is sent of `obj`."""
        return {"pk": obj.pk, "text": str(obj)}
