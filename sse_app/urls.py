"""The app's URLs: `path("events/", include("sse_app.urls"))`."""

from __future__ import annotations

from django.urls import path

from .operations import health
from .views import access as passes
from .views import metrics as scrapes
from .views import send as views

app_name = "sse_app"

urlpatterns = [
    path("", views.stream, name="stream"),
    path("renew/", passes.renew, name="renew"),
    path("ticket/", passes.ticket, name="ticket"),
    path("send/", views.send, name="send"),
    path("publish/", views.publish, name="publish"),
    path("health/", health.health, name="health"),
    path("metrics/", scrapes.metrics, name="metrics"),
]
