"""Django's admin: broadcasts, by hand and of the rows selected elsewhere; access tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.db import models
from django.forms.fields import InvalidJSONInput
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from . import stream_admin  # noqa: F401 - registers the live streams
from .models import AccessToken, Broadcast
from .publishing import publish
from .tokens import revoke_token

if TYPE_CHECKING:
    _Mixed = admin.ModelAdmin
else:
    _Mixed = object

PERMISSION = "sse_app.send_broadcast"


class TypedJSONField(forms.JSONField):
    """Shows what was typed again as it was typed.

    Django's own shows it decoded, and a page can't hold the lone surrogate that JSON can spell.
    """

    def bound_data(self, data: Any, initial: Any) -> Any:
        """Return the text itself."""
        return initial if self.disabled or data is None else InvalidJSONInput(data)


@admin.register(Broadcast)
class BroadcastAdmin(admin.ModelAdmin):
    """Send by adding; what was sent can be looked at and not be changed."""

    list_display = ["event", "group", "sent_by", "sent_at"]
    list_filter = ["group", "event"]
    date_hierarchy = "sent_at"
    readonly_fields = ["sent_by", "sent_at"]
    formfield_overrides = {models.JSONField: {"form_class": TypedJSONField}}

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Only holders of `sse_app.send_broadcast` send."""
        return request.user.has_perm(PERMISSION)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may send may look at what was sent."""
        return super().has_view_permission(request, obj) or request.user.has_perm(PERMISSION)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes what was sent."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes what was sent."""
        return False

    def save_model(self, request: HttpRequest, obj: Broadcast, form: Any, change: bool) -> None:
        """Record and publish in one transaction; the admin writes the `LogEntry`."""
        obj.sent_by = request.user  # type: ignore[assignment]  # staff is never anonymous
        super().save_model(request, obj, form, change)
        publish(obj.group, obj.event, obj.data)


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
            _log_change(request, token, "Revoked.")
        self.message_user(
            request,
            ngettext("%d token was revoked.", "%d tokens were revoked.", len(revoked))
            % len(revoked),
        )


def _listed(patterns: Any) -> str:
    return ", ".join(map(str, patterns)) if patterns else "–"


def _log_change(request: HttpRequest, obj: Any, message: str) -> None:
    LogEntry.objects.create(
        user_id=request.user.pk or 0,
        content_type_id=get_content_type_for_model(obj).pk,
        object_id=obj.pk,
        object_repr=str(obj)[:200],
        action_flag=CHANGE,
        change_message=message,
    )


class BroadcastActionMixin(_Mixed):
    """Adds the action "Broadcast selected" to a `ModelAdmin`.

    `broadcast_group` and `broadcast_event` say where it goes and under which name,
    `broadcast_data(obj)` what.
    """

    broadcast_group: str = ""
    broadcast_event: str = "broadcast"

    @admin.action(description=_("Broadcast selected %(verbose_name_plural)s"))
    def broadcast_selected(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        """Publish one event per selected row, with a `LogEntry` each."""
        if not request.user.has_perm(PERMISSION):
            self.message_user(
                request, _("You lack the permission %s.") % PERMISSION, messages.ERROR
            )
            return
        count = 0
        for obj in queryset:
            publish(self.broadcast_group, self.broadcast_event, self.broadcast_data(obj))
            _log_change(
                request,
                obj,
                f"Broadcast to {self.broadcast_group} as {self.broadcast_event}.",
            )
            count += 1
        self.message_user(
            request, ngettext("%d broadcast was sent.", "%d broadcasts were sent.", count) % count
        )

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Offer the action to those who may send."""
        actions = dict(super().get_actions(request))
        if request.user.has_perm(PERMISSION):
            actions["broadcast_selected"] = self.get_action("broadcast_selected")
        return actions

    def broadcast_data(self, obj: Any) -> Any:
        """Return what is sent of `obj`."""
        return {"pk": obj.pk, "text": str(obj)}
