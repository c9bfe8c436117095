"""Broadcasts in Django's admin: compose, confirm, look at what was sent, cancel, send again."""

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

#: From how many of the latest broadcasts the groups are taken.
LATEST: Final = 200
#: How many groups the list offers, those of the newest broadcasts: each may have named twenty.
MOST_FILTERED: Final = 100


class GroupFilter(admin.SimpleListFilter):
    """Those that went to one group."""

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
        """Look for the name in the list as text: SQLite can't look into JSON."""
        if not self.value():
            return None
        listed = queryset.annotate(listed=Cast("groups", TextField()))
        return listed.filter(listed__contains=f'"{self.value()}"')


PERMISSION: Final = "sse_app.send_broadcast"
#: How many names the completion of groups shows.
MOST_NAMES: Final = 20
#: How many broadcasts are sent again at once.
MOST_REPEATED: Final = 20

_FORM_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{8,40}\Z", re.ASCII)
_TEMPLATES: Final = "admin/sse_app/broadcast/"


@admin.register(Broadcast)
class BroadcastAdmin(admin.ModelAdmin):
    """Send by adding, in two steps; what was sent can be looked at and not be changed."""

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

    # --- who may ---

    def has_send_permission(self, request: HttpRequest) -> bool:
        """Only holders of `sse_app.send_broadcast` send, cancel and repeat."""
        return has_permission(request.user, PERMISSION)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """See `has_send_permission()`."""
        return self.has_send_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may send may look at what was sent."""
        return super().has_view_permission(request, obj) or self.has_send_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes what was sent."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes what was sent."""
        return False

    # --- the history ---

    def get_queryset(self, request: HttpRequest) -> QuerySet[Broadcast]:
        """Add to how many streams each was delivered."""
        rows: QuerySet[Broadcast] = super().get_queryset(request)
        return rows.annotate(streams=Sum("counts__streams"))

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Leave out the error where there is none."""
        return [name for name in self.fields if name != "error" or (obj and obj.error)]

    @admin.display(description=_("groups"))
    def group_list(self, obj: Broadcast) -> str:
        """Return its groups."""
        return ", ".join(map(str, obj.groups))

    @admin.display(description=_("state"), ordering="state")
    def state_label(self, obj: Broadcast) -> str:
        """Return its state as a label."""
        return format_html(
            '<span class="sse-state sse-{}">{}</span>', obj.state, obj.get_state_display()
        )

    @admin.display(description=_("when"), ordering=Coalesce("sent_at", "send_at", "created_at"))
    def when(self, obj: Broadcast) -> Any:
        """Return when it was sent or will be."""
        return obj.sent_at or obj.send_at or obj.created_at

    @admin.display(description=_("deliveries"), ordering="streams")
    def delivered(self, obj: Any) -> str:
        """Return how often its events were delivered; a dash where that is not known."""
        known = obj.state == Broadcast.State.SENT and obj.places
        return str(localize(obj.streams or 0)) if known else "–"

    @admin.display(description=_("kind"))
    def kind_label(self, obj: Broadcast) -> str:
        """Return its kind, also one of an earlier release, which is none of the field's choices."""
        return obj.get_kind_display()

    @admin.display(description=_("data"))
    def body_text(self, obj: Broadcast) -> str:
        """Return what was composed, as it was typed."""
        return format_html('<pre class="sse-text">{}</pre>', obj.body)

    # --- composing and confirming ---

    def get_urls(self) -> list[URLPattern]:
        """Add the names of groups, for the form's completion."""
        names = require_GET(self.admin_site.admin_view(self.group_names))
        groups = path("groups/", names, name="sse_app_broadcast_groups")
        return guard_posts([groups, *super().get_urls()])

    def group_names(self, request: HttpRequest) -> JsonResponse:
        """Answer with the known groups that `q` is part of."""
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
        """Compose, preview, confirm; each step is checked anew, and only the last one sends."""
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
        """Record `composed` and send or schedule it; return False if it was confirmed before."""
        composed.once = once
        rows = written(Broadcast)
        try:
            with transaction.atomic(using=rows.db):
                composed.save(using=rows.db)
                self.log_addition(request, composed, _log_text(composed))
        except IntegrityError:
            if not rows.filter(once=once).exists():
                raise
            self.message_user(request, _("That was confirmed before."), messages.WARNING)
            return False
        if composed.send_at is None:
            transaction.on_commit(partial(sending.try_send, composed.pk), using=rows.db)
            composed.refresh_from_db()
        self.message_user(request, *_outcome(composed))
        return True

    # --- actions ---

    @admin.action(description=_("Cancel selected scheduled broadcasts"), permissions=["send"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Broadcast]) -> None:
        """Cancel what is not sent yet, with a `LogEntry` each."""
        cancelled = 0
        selected = list(queryset)
        for broadcast in selected:
            with transaction.atomic(using=written(Broadcast).db):
                if sending.cancel(broadcast.pk):
                    self.log_change(request, broadcast, "Cancelled.")
                    cancelled += 1
        said = ngettext("%d broadcast was cancelled.", "%d broadcasts were cancelled.", cancelled)
        self.message_user(request, said % cancelled)
        if cancelled < len(selected):
            late = _("The others could not be: only what is scheduled can be cancelled.")
            self.message_user(request, late, messages.WARNING)

    @admin.action(description=_("Repeat selected broadcasts now"), permissions=["send"])
    def repeat_selected(
        self, request: HttpRequest, queryset: QuerySet[Broadcast]
    ) -> HttpResponse | None:
        """Send the same once more, now, after a page that asks."""
        selected = list(queryset[: MOST_REPEATED + 1])
        if len(selected) > MOST_REPEATED:
            many = _("Select at most %d broadcasts to repeat.") % MOST_REPEATED
            self.message_user(request, many, messages.ERROR)
            return None
        for row in selected:
            try:
                row.events()
            except ValueError as error:
                named = {"what": str(row), "error": error}
                unfit = _("%(what)s can't be sent again: %(error)s") % named
                self.message_user(request, unfit, messages.ERROR)
                return None
        once = request.POST.get("once", "")
        if not _FORM_TOKEN.match(once):  # Nobody was asked yet.
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
    """Return what to tell who sent it, and how grave it is."""
    named = {"what": str(broadcast), "error": broadcast.error}
    if broadcast.state == Broadcast.State.SENT:
        return _("%(what)s was sent.") % named, messages.SUCCESS
    if broadcast.state == Broadcast.State.FAILED:
        return _("%(what)s was not sent: %(error)s") % named, messages.ERROR
    if broadcast.send_at is None:
        return _("%(what)s is about to be sent.") % named, messages.INFO
    when = localize(timezone.localtime(broadcast.send_at))
    return _("%(what)s is scheduled for %(when)s.") % {**named, "when": when}, messages.SUCCESS
