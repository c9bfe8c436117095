"""The app's URLs: `path("events/", include("sse_app.urls"))`."""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.urls import path

from .operations import health
from .views import access, metrics, publish, send, stream

app_name = "sse_app"

urlpatterns = [
    path("", stream.stream, name="stream"),
    path("renew/", access.renew, name="renew"),
    path("ticket/", access.ticket, name="ticket"),
    path("send/", send.send, name="send"),
    path("publish/", publish.publish, name="publish"),
    path("health/", health.health, name="health"),
    path("metrics/", metrics.metrics, name="metrics"),
]
for _endpoint in urlpatterns:
    # Each view checks its requests itself. Programs would take a redirect to a login for an answer.
    login_not_required(_endpoint.callback)
