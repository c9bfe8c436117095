"""Django's admin: access tokens, and the action that broadcasts the rows selected elsewhere.

Broadcasts by hand are in `broadcast_admin`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.contrib import admin, messages
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .access.authorization import has_permission
from .access.posts import guard_posts
from .access.tokens import revoke_token
from .broadcasts.admin import PERMISSION, BroadcastAdmin
from .models import AccessToken
from .operations.dashboard import admin as stream_admin  # noqa: F401 - registers the live streams
from .publishing.publish import publish_many

__all__ = ["PERMISSION", "AccessTokenAdmin", "BroadcastActionMixin", "BroadcastAdmin"]

#: How many rows of a list are broadcast at once: "select all" may mean a whole table.
MOST_SELECTED: Final = 1000

if TYPE_CHECKING:
    _Mixed = admin.ModelAdmin
else:
    _Mixed = object


@admin.register(AccessToken)
class AccessTokenAdmin(admin.ModelAdmin):
    """Look at tokens, revoke and delete them; only `manage.py sse_token` makes one."""

    list_display = ["name", "listens", "publishes", "sends", "expires_at", "revoked_at"]
    list_filter = ["expires_at", "revoked_at"]
    search_fields = ["name"]
    fields = [
        *("name", "listen", "publish", "events", "metrics"),
        *("created_at", "expires_at", "revoked_at"),
    ]
    readonly_fields = ["created_at"]
    actions = ["revoke_selected"]

    @admin.display(description=_("may listen to"))
    def listens(self, obj: AccessToken) -> str:
        """Return the groups that it may read."""
        return _listed(obj.listen)

    @admin.display(description=_("may publish to"))
    def publishes(self, obj: AccessToken) -> str:
        """Return the groups that it may publish to."""
        return _listed(obj.publish)

    @admin.display(description=_("may publish events"))
    def sends(self, obj: AccessToken) -> str:
        """Return the events that it may publish."""
        return _listed(obj.events)

    def get_urls(self) -> list[URLPattern]:
        """Let no other site's page post to them."""
        return guard_posts(super().get_urls())

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody: a page that shows a secret is one that a browser keeps."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may change tokens may revoke them; nobody changes what one permits."""
        return obj is None and super().has_change_permission(request, obj)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Say above the list how a token is made."""
        said = _("Made with: manage.py sse_token create. It shows the token once.")
        return super().changelist_view(request, {"subtitle": said, **(extra_context or {})})

    @admin.action(description=_("Revoke selected access tokens"), permissions=["change"])
    def revoke_selected(self, request: HttpRequest, queryset: models.QuerySet[AccessToken]) -> None:
        """End the selected tokens now, with a `LogEntry` for each that was not revoked before."""
        revoked = [token for token in queryset if revoke_token(token)]
        for token in revoked:
            self.log_change(request, token, "Revoked.")
        self.message_user(
            request,
            ngettext("%d token was revoked.", "%d tokens were revoked.", len(revoked))
            % len(revoked),
        )


def _listed(patterns: Any) -> str:
    return ", ".join(map(str, patterns)) if patterns else "–"


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
