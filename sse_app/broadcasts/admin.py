"""Broadcasts in Django's admin: compose, confirm, see the sent ones, cancel, repeat."""

from __future__ import annotations

import re
import secrets
from functools import partial
from itertools import islice
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction
from django.db.models import QuerySet, Sum, TextField
from django.db.models.functions import Cast, Coalesce
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.formats import localize
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_GET

from ..access.authorization import has_permission
from ..access.posts import guard_posts
from ..conf import written
from ..operations import processes
from . import sending
from .forms import BroadcastForm
from .models import Broadcast

#: From how many of the latest broadcasts the filter takes its groups.
LATEST: Final = 200
#: The most groups of the filter, from the newest broadcasts: each may have twenty groups.
MOST_FILTERED: Final = 100


class GroupFilter(admin.SimpleListFilter):
    """Filters the broadcasts to one group."""

    title = _("group")
    parameter_name = "group"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the groups of the latest broadcasts."""
        latest = Broadcast.objects.values_list("groups", flat=True)[:LATEST]
        named = dict.fromkeys(name for names in latest for name in names)
        return [(name, name) for name in sorted(islice(named, MOST_FILTERED))]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[Broadcast]
    ) -> QuerySet[Broadcast] | None:
        """Search the name in the text of the list: SQLite can't search in JSON lists."""
        if not self.value():
            return None
        listed = queryset.annotate(listed=Cast("groups", TextField()))
        return listed.filter(listed__contains=f'"{self.value()}"')


PERMISSION: Final = "sse_app.send_broadcast"
#: The most names in the completion of groups.
MOST_NAMES: Final = 20
#: The most broadcasts that are repeated together.
MOST_REPEATED: Final = 20

_FORM_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{8,40}\Z", re.ASCII)
_TEMPLATES: Final = "admin/sse_app/broadcast/"


@admin.register(Broadcast)
class BroadcastAdmin(admin.ModelAdmin):
    """Adding a broadcast sends it, in two steps; sent broadcasts can be viewed and not changed."""

    list_display = ["event", "state_label", "group_list", "when", "delivered", "sent_by"]
    list_filter = ["state", GroupFilter, "event", ("sent_by", admin.RelatedOnlyFieldListFilter)]
    list_select_related = ["sent_by"]
    date_hierarchy = "created_at"
    actions = ["cancel_selected", "repeat_selected"]
    fields = (
        *("state_label", "error", "group_list", "event", "kind_label", "body_text"),
        *("sent_by", "created_at", "send_at", "sent_at", "delivered"),
    )
    readonly_fields = fields

    class Media:
        css = {"all": ["sse_app/broadcast.css"]}

    # --- permissions ---

    def has_send_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may send, cancel and repeat: `sse_app.send_broadcast`."""
        return has_permission(request.user, PERMISSION)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """See `has_send_permission()`."""
        return self.has_send_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may view broadcasts: senders may, too."""
        return super().has_view_permission(request, obj) or self.has_send_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: broadcasts are a record."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: broadcasts are a record."""
        return False

    # --- the history ---

    def get_queryset(self, request: HttpRequest) -> QuerySet[Broadcast]:
        """Add `streams`, the number of streams to which each was delivered."""
        rows: QuerySet[Broadcast] = super().get_queryset(request)
        return rows.annotate(streams=Sum("counts__streams"))

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Leave out `error` if there is none."""
        return [name for name in self.fields if name != "error" or (obj and obj.error)]

    @admin.display(description=_("groups"))
    def group_list(self, obj: Broadcast) -> str:
        """Return its groups, with commas."""
        return ", ".join(map(str, obj.groups))

    @admin.display(description=_("state"), ordering="state")
    def state_label(self, obj: Broadcast) -> str:
        """Return its state as a label."""
        return format_html(
            '<span class="sse-state sse-{}">{}</span>', obj.state, obj.get_state_display()
        )

    @admin.display(description=_("when"), ordering=Coalesce("sent_at", "send_at", "created_at"))
    def when(self, obj: Broadcast) -> Any:
        """Return the time of sending, past or future."""
        return obj.sent_at or obj.send_at or obj.created_at

    @admin.display(description=_("deliveries"), ordering="streams")
    def delivered(self, obj: Any) -> str:
        """Return the number of deliveries of its events; a dash if it is unknown."""
        known = obj.state == Broadcast.State.SENT and obj.places
        return str(localize(obj.streams or 0)) if known else "–"

    @admin.display(description=_("kind"))
    def kind_label(self, obj: Broadcast) -> str:
        """Return its kind, also a kind of an earlier release that is no longer a choice."""
        return obj.get_kind_display()

    @admin.display(description=_("data"))
    def body_text(self, obj: Broadcast) -> str:
        """Return the body as it was typed."""
        return format_html('<pre class="sse-text">{}</pre>', obj.body)

    # --- composing and confirming ---

    def get_urls(self) -> list[URLPattern]:
        """Add the address of the completion of groups."""
        names = require_GET(self.admin_site.admin_view(self.group_names))
        groups = path("groups/", names, name="sse_app_broadcast_groups")
        return guard_posts([groups, *super().get_urls()])

    def group_names(self, request: HttpRequest) -> JsonResponse:
        """Answer with known names of groups that contain `q`."""
        if not self.has_send_permission(request):
            raise PermissionDenied
        text = request.GET.get("q", "")[:80]
        return JsonResponse({"groups": sending.known_groups(text, MOST_NAMES)})

    def add_view(
        self,
        request: HttpRequest,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Compose, preview, confirm: every step validates the form, and only the last one sends."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        sender: Any = request.user  # Staff is never anonymous.
        composed = Broadcast(sent_by=sender)
        if request.method != "POST":
            return self._composing(request, BroadcastForm(instance=composed))
        form = BroadcastForm(request.POST, instance=composed)
        if not form.is_valid() or "_preview" in request.POST or "_back" in request.POST:
            return self._composing(request, form)
        if "_confirm" not in request.POST:
            return self._confirming(request, form)
        once = request.POST.get("once", "")
        if not _FORM_TOKEN.match(once):
            once = secrets.token_urlsafe(16)
        self._record_and_send(request, composed, once)
        return HttpResponseRedirect(reverse("admin:sse_app_broadcast_changelist"))

    def _composing(self, request: HttpRequest, form: BroadcastForm) -> TemplateResponse:
        shown = form.is_bound and form.is_valid() and "_preview" in request.POST
        context = {
            "form": form,
            "media": self.media + form.media,
            "preview": form.instance.text() if shown else None,
        }
        return self._page(request, _("Compose a broadcast"), "compose.html", context)

    def _confirming(self, request: HttpRequest, form: BroadcastForm) -> TemplateResponse:
        composed = form.instance
        context = {
            "form": form,
            "broadcast": composed,
            "text": composed.text(),
            "listeners": processes.listeners(composed.groups),
            "zone": timezone.get_current_timezone_name(),
            "once": secrets.token_urlsafe(16),
            "media": self.media,
        }
        return self._page(request, _("Send this broadcast?"), "confirm.html", context)

    def _page(
        self, request: HttpRequest, title: Any, template: str, context: dict[str, Any]
    ) -> TemplateResponse:
        request.current_app = self.admin_site.name
        common = {**self.admin_site.each_context(request), "opts": self.opts, "title": title}
        return TemplateResponse(request, _TEMPLATES + template, {**common, **context})

    def _record_and_send(self, request: HttpRequest, composed: Broadcast, once: str) -> bool:
        """Save `composed` and send or schedule it; return False if it was confirmed before."""
        composed.once = once
        rows = written(Broadcast)
        try:
            with transaction.atomic(using=rows.db):
                composed.save(using=rows.db)
                self.log_addition(request, composed, _log_text(composed))
        except IntegrityError:
            if not rows.filter(once=once).exists():
                raise
            self.message_user(request, _("This broadcast was confirmed before."), messages.WARNING)
            return False
        if composed.send_at is None:
            transaction.on_commit(partial(sending.try_send, composed.pk), using=rows.db)
            composed.refresh_from_db()
        self.message_user(request, *_outcome(composed))
        return True

    # --- actions ---

    @admin.action(description=_("Cancel selected scheduled broadcasts"), permissions=["send"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Broadcast]) -> None:
        """Cancel the broadcasts that are still scheduled, with a `LogEntry` each."""
        cancelled = 0
        selected = list(queryset)
        for broadcast in selected:
            with transaction.atomic(using=written(Broadcast).db):
                if sending.cancel(broadcast.pk):
                    self.log_change(request, broadcast, "Cancelled.")
                    cancelled += 1
        text = ngettext("%d broadcast was cancelled.", "%d broadcasts were cancelled.", cancelled)
        self.message_user(request, text % cancelled)
        if cancelled < len(selected):
            others = _("The others are not scheduled any more, so they can't be cancelled.")
            self.message_user(request, others, messages.WARNING)

    @admin.action(description=_("Repeat selected broadcasts now"), permissions=["send"])
    def repeat_selected(
        self, request: HttpRequest, queryset: QuerySet[Broadcast]
    ) -> HttpResponse | None:
        """Send copies of the selected broadcasts now, after a page for confirming."""
        selected = list(queryset[: MOST_REPEATED + 1])
        if len(selected) > MOST_REPEATED:
            text = _("Select at most %d broadcasts to repeat.") % MOST_REPEATED
            self.message_user(request, text, messages.ERROR)
            return None
        for row in selected:
            try:
                row.events()
            except ValueError as error:
                named = {"what": str(row), "error": error}
                text = _("%(what)s can't be sent again: %(error)s") % named
                self.message_user(request, text, messages.ERROR)
                return None
        once = request.POST.get("once", "")
        if not _FORM_TOKEN.match(once):  # Not confirmed yet.
            context = {
                "rows": [(row, processes.listeners(row.groups)) for row in selected],
                "once": secrets.token_urlsafe(16),
                "checkbox": ACTION_CHECKBOX_NAME,
                "media": self.media,
            }
            return self._page(request, _("Repeat broadcasts?"), "repeat.html", context)
        for row in reversed(selected):
            self._repeat(request, row, f"{once}.{row.pk}")
        return None

    def _repeat(self, request: HttpRequest, row: Broadcast, once: str) -> None:
        sender: Any = request.user
        again = Broadcast(
            groups=row.groups, event=row.event, kind=row.kind, body=row.body, sent_by=sender
        )
        if self._record_and_send(request, again, once):
            self.log_change(request, row, f"Repeated as {again.pk}.")


def _log_text(broadcast: Broadcast) -> str:
    to = ", ".join(broadcast.groups)
    if broadcast.send_at is None:
        return f"Sent to {to}."
    return f"Scheduled for {broadcast.send_at.isoformat()} to {to}."


def _outcome(broadcast: Broadcast) -> tuple[Any, int]:
    """Return the message for the sender, and its level."""
    named = {"what": str(broadcast), "error": broadcast.error}
    if broadcast.state == Broadcast.State.SENT:
        return _("%(what)s was sent.") % named, messages.SUCCESS
    if broadcast.state == Broadcast.State.FAILED:
        return _("%(what)s was not sent: %(error)s") % named, messages.ERROR
    if broadcast.send_at is None:
        return _("%(what)s is about to be sent.") % named, messages.INFO
    at = broadcast.send_at
    when = localize(timezone.localtime(at) if timezone.is_aware(at) else at)
    return _("%(what)s is scheduled for %(when)s.") % {**named, "when": when}, messages.SUCCESS
