"""The admin's list of access tokens."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .models import AccessToken
from .posts import guard_posts
from .tokens import revoke_token


@admin.register(AccessToken)
class AccessTokenAdmin(admin.ModelAdmin):
    """Look at tokens, revoke and delete them; only `manage.py sse_token` makes one."""

    list_display = ["name", "signs_in", "listens", "publishes", "sends", "expires_at", "revoked_at"]
    list_filter = ["expires_at", "revoked_at"]
    search_fields = ["name"]
    fields = [
        *("name", "listen", "publish", "events", "metrics"),
        *("created_at", "expires_at", "revoked_at"),
    ]
    readonly_fields = ["created_at"]
    actions = ["revoke_selected"]

    @admin.display(description=_("signs in the user"))
    def signs_in(self, obj: AccessToken) -> str:
        """Return the primary key of the user whose rights the token has."""
        return "–" if obj.user_id is None else str(obj.user_id)

    @admin.display(description=_("may listen to"))
    def listens(self, obj: AccessToken) -> str:
        """Return the groups that the token may read."""
        return _listed(obj.listen)

    @admin.display(description=_("may publish to"))
    def publishes(self, obj: AccessToken) -> str:
        """Return the groups that the token may publish to."""
        return _listed(obj.publish)

    @admin.display(description=_("may publish events"))
    def sends(self, obj: AccessToken) -> str:
        """Return the events that the token may publish."""
        return _listed(obj.events)

    def get_urls(self) -> list[URLPattern]:
        """Refuse POST requests from pages of other sites."""
        return guard_posts(super().get_urls())

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: a browser would keep the page that shows the new token's secret."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Permit the action "revoke" to users who may change tokens; no token has a form."""
        return obj is None and super().has_change_permission(request, obj)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show above the list how to make a token."""
        subtitle = _("Made with: manage.py sse_token create. It shows the token once.")
        return super().changelist_view(request, {"subtitle": subtitle, **(extra_context or {})})

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
