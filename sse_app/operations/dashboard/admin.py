"""The admin's "Live streams": a dashboard over all processes, with its pages and actions.

`sse_app.view_serverprocess` permits the dashboard. To end streams, a user also needs `end_streams`;
to read the events of a group or their names, `read_events`; to send one of these events again,
`read_events` and `send_broadcast`.
"""

from __future__ import annotations

import re
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from ...access.authorization import has_permission, is_true, method_of
from ...access.disconnect import disconnect, end_stream
from ...access.posts import guard_posts
from ...conf import namespace, within_namespace
from ...protocol.groups import namespace_of, own_name, validate_full
from ...publishing.publish import publish
from ...responses import EventStreamResponse
from ...runtime.callables import in_callers_thread, in_thread
from ...runtime.transactions import non_atomic
from ..models import ServerProcess
from . import history as group_history
from . import poller
from .explain import Question, Verdict, explain, to_position
from .overview import SORTS, STATES, Choice
from .stream import feed
from .texts import texts


def log_act(request: HttpRequest, model: Any, id: Any, name: str, message: str) -> None:
    """Write `message` to the admin's log, for the request's user and the object `id` of `model`.

    The log shows the object as `name`. `ModelAdmin.log_change()` needs an object with a row.
    """
    LogEntry.objects.create(
        user_id=request.user.pk or 0,
        content_type_id=get_content_type_for_model(model).pk,
        object_id=id,
        object_repr=name[:200],
        action_flag=CHANGE,
        change_message=message,
    )


END: Final = "sse_app.end_streams"
READ: Final = "sse_app.read_events"
SEND: Final = "sse_app.send_broadcast"
_ID: Final = re.compile(r"[0-9a-f]{1,32}\Z")
_NAME: Final = "sse_app_serverprocess"


@admin.register(ServerProcess)
class LiveStreamsAdmin(admin.ModelAdmin):
    """Shows the dashboard in place of the list of rows. Rows can't be changed in the admin."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: only a process makes its row."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: only a process changes its row."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: a process deletes its own row."""
        return False

    def get_urls(self) -> list[URLPattern]:
        """Add the dashboard's own pages before the rows'."""
        page = self.admin_site.admin_view
        own = [
            path("feed/", _without_redirect(self.feed), name=f"{_NAME}_feed"),
            path("end/", page(require_POST(self.end)), name=f"{_NAME}_end"),
            path("explain/", page(self.explain), name=f"{_NAME}_explain"),
            path("group/<str:group>/", page(self.group), name=f"{_NAME}_group"),
            path(
                "group/<str:group>/replay/<int:offset>/", page(self.replay), name=f"{_NAME}_replay"
            ),
        ]
        return guard_posts([*own, *super().get_urls()])

    # --- the dashboard ---

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the dashboard, which is filled by its script."""
        self._demand(request)
        urls = {"feed": self._url("feed"), "end": self._url("end"), "explain": self._url("explain")}
        may = {
            "end": has_permission(request.user, END),
            "read": has_permission(request.user, READ),
        }
        # The script replaces "GROUP" by the name of a group.
        urls["group"] = self._url("group", group="GROUP")
        shown = {"urls": urls, "may": may, "texts": texts()}
        context = {"title": _("Live streams"), "dashboard": shown, **(extra_context or {})}
        labels = texts()
        context |= {
            "states": [(state, labels[f"state.{state}"]) for state in STATES],
            "sorts": [(sort, labels[f"sort.{sort}"]) for sort in SORTS],
            "charts": [
                ("published", _("Events published per second")),
                ("delivered", _("Events delivered per second")),
            ],
        }
        return self._page(request, "dashboard", context)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Redirect to the dashboard: the admin's log links to objects that may no longer exist."""
        self._demand(request)
        return redirect(self._url("changelist"))

    async def feed(self, request: HttpRequest) -> HttpResponseBase:
        """Stream the data of the dashboard. Answer 403, no redirect, if it is not permitted."""
        if await in_callers_thread(namespace):
            raise Http404  # See `refuse_tenants()`.
        if not await in_thread(self._permits, request):
            return HttpResponse(_("Not permitted."), status=403, content_type="text/plain")
        return EventStreamResponse(feed(request, self._permits))

    # --- actions ---

    def end(self, request: HttpRequest) -> HttpResponse:
        """End one stream (`stream`: its id) or all streams of a user (`user`: the user's key)."""
        self._demand(request, END)
        stream, user = request.POST.get("stream", ""), request.POST.get("user", "")
        if _ID.match(stream) and not user:
            return self._end_stream(request, stream)
        if user and len(user) <= 64 and not stream:
            return self._end_user(request, user)
        return JsonResponse({"said": _("Name a stream or a user.")}, status=400)

    def _end_stream(self, request: HttpRequest, id: str) -> HttpResponse:
        row = poller.find_stream(id)
        if row is None or row["state"] == "closed":
            return JsonResponse({"said": _("This stream has ended already.")}, status=404)
        end_stream(id)
        who = row["user"] or _("nobody who signed in")
        log_act(request, ServerProcess, id, f"{id} ({who}, {row['address']})", "Ended the stream.")
        return JsonResponse({"said": _("The stream %s was ended.") % id})

    def _end_user(self, request: HttpRequest, key: str) -> HttpResponse:
        with within_namespace(namespace_of(key)):
            disconnect(user=own_name(key))
        who = _name_of(key)
        log_act(
            request,
            ServerProcess,
            key,
            who,
            "Ended all streams of the user, and revoked the user's grants.",
        )
        return JsonResponse({"said": _("All streams of %s were ended.") % who})

    def group(self, request: HttpRequest, group: str) -> HttpResponse:
        """Show the offset and epoch of a group's log, and its last events."""
        self._demand(request, READ)
        history = group_history.read(_valid_group(group))
        context = {
            "title": _("Events of %s") % group,
            "history": history,
            "may_send": has_permission(request.user, SEND),
            "explain_url": self._url("explain"),
        }
        return self._page(request, "group", context)

    def replay(self, request: HttpRequest, group: str, offset: int) -> HttpResponse:
        """Ask for confirmation; on POST, publish the event's name and data as a new event."""
        self._demand(request, READ, SEND)
        event = group_history.find(_valid_group(group), offset)
        if event is None:
            raise Http404(_("This event is no longer in the log."))
        target, error = request.POST.get("target", group).strip(), ""
        if request.method == "POST":
            try:
                with within_namespace(namespace_of(target)):
                    publish(target, event.name, event.data)
            except ValueError as invalid:
                error = str(invalid)
            else:
                message = f"Sent event {offset} of {group} again, to {target}, as {event.name}."
                log_act(request, ServerProcess, group, f"{group} {offset}", message)
                messages.success(request, _("The event was sent to %s.") % target)
                return redirect(self._url("group", group=target))
        context = {"title": _("Send the event again?"), "event": event, "group": group}
        context |= {"target": target, "error": error}
        return self._page(request, "replay", context)

    def explain(self, request: HttpRequest) -> HttpResponse:
        """Show why `stream` did not get the event at `offset` and `epoch` of `group`."""
        self._demand(request)
        asked = {key: request.GET.get(key, "").strip() for key in _ASKED}
        verdict, error = None, ""
        streams = poller.all_streams()
        row = next((row for row in streams if row["id"] == asked["stream"]), None)
        if asked["stream"] and asked["group"] and asked["offset"]:
            named = has_permission(request.user, READ)
            verdict, error = _verdict_of(asked, row, named=named)
        context: dict[str, Any] = {"title": _("Why did this stream not get the event?")}
        context |= {"asked": asked, "row": row, "positions": _positions(row)}
        context |= {"verdict": verdict, "error": error}
        context |= {
            "state": texts()[f"state.{row['state']}"] if row else "",
            "known": _newest(streams),
        }
        return self._page(request, "explain", context)

    # --- permissions and pages ---

    def _permits(self, request: HttpRequest) -> bool:
        may_enter = self.admin_site.has_permission(request)
        by = method_of(self.admin_site, "has_permission")
        return is_true(by, may_enter) and self._may_view(request)

    def _may_view(self, request: HttpRequest) -> bool:
        may_view = self.has_view_permission(request)
        return is_true(method_of(self, "has_view_permission"), may_view)

    def _demand(self, request: HttpRequest, *permissions: str) -> None:
        if not self._may_view(request) or not has_permission(request.user, *permissions):
            raise PermissionDenied

    def _url(self, page: str, **kwargs: Any) -> str:
        return reverse(f"{self.admin_site.name}:{_NAME}_{page}", kwargs=kwargs)

    def _page(self, request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
        shared = {**self.admin_site.each_context(request), "opts": self.opts}
        shared["list_url"] = self._url("changelist")
        request.current_app = self.admin_site.name
        return TemplateResponse(request, f"sse_app/admin/{name}.html", {**shared, **context})


_ASKED: Final = ("stream", "group", "offset", "epoch")


def _without_redirect(view: Any) -> Any:
    """Wrap the feed in place of `admin_view()`, which takes no async views and redirects to login.

    The view itself checks the permission.
    """

    async def wrapped(request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = await view(request)
        return response

    return login_not_required(never_cache(non_atomic(require_GET(wrapped))))


def _valid_group(group: str) -> str:
    try:
        return validate_full(group)
    except ValueError as error:
        raise Http404(str(error)) from error


def _name_of(key: str) -> str:
    model = get_user_model()
    try:
        user = model._default_manager.filter(pk=key).first()
    except (ValueError, TypeError):  # The key of a token is not a primary key.
        user = None
    return key if user is None else user.get_username()


def _verdict_of(asked: dict[str, str], row: Any, *, named: bool) -> tuple[Verdict | None, str]:
    """Return the verdict, or an error text. `named`: the verdict may name the event."""
    try:
        group, offset = validate_full(asked["group"]), int(asked["offset"])
    except ValueError as error:
        return None, str(error)
    if offset < 1:
        return None, _("Offsets count from 1.")
    head, earliest = group_history.range_of(group)
    epoch = asked["epoch"] or head.epoch
    event = group_history.find(group, offset) if named and epoch == head.epoch else None
    position = to_position(f"{epoch}-{offset}")
    return explain(Question(row, group, position, head, earliest, event.name if event else "")), ""


def _newest(streams: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the id and the label, user and address, of each of the newest streams."""
    rows, _count = Choice().pick(streams, ())
    return [(row["id"], f"{row['user'] or '–'} {row['address']}") for row in rows]


def _positions(row: Any) -> list[dict[str, str]]:
    if row is None:
        return []
    return [
        {
            "group": group,
            "opened": row["opened"].get(group, ""),
            "current": row["positions"].get(group, ""),
        }
        for group in row["groups"]
    ]
