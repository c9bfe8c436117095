"""The app's URLs: `path("events/", include("sse_app.urls"))`."""

from __future__ import annotations

from django.urls import path

from .operations import health
from .views import access, metrics, send

app_name = "sse_app"

urlpatterns = [
    path("", send.stream, name="stream"),
    path("renew/", access.renew, name="renew"),
    path("ticket/", access.ticket, name="ticket"),
    path("send/", send.send, name="send"),
    path("publish/", send.publish, name="publish"),
    path("health/", health.health, name="health"),
    path("metrics/", metrics.metrics, name="metrics"),
]
