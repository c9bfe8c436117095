"""The demo's URLs, and what a benchmark asks of the server that it measures."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.urls import path

from project.urls import urlpatterns as demo
from sse_app import publish

from .counting import CountingEventLog
from .publishers import GROUP, NAME, data


def reads(request: HttpRequest) -> JsonResponse:
    """Say how often the log was read."""
    counted = CountingEventLog.reads
    return JsonResponse({"since": counted["since"], "heads": counted["heads"]})


def publish_one(request: HttpRequest, n: int) -> JsonResponse:
    """Publish one event, as a view of a project does."""
    return JsonResponse({"offset": publish(GROUP, NAME, data(n)).offset})


urlpatterns = [
    path("bench/reads/", reads),
    path("bench/publish/<int:n>/", publish_one),
    *demo,
]
