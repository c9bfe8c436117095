"""The demo's URLs and what only tests ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from project.urls import urlpatterns as demo
from sse_app import apublish, publish
from sse_app.responses import EventStreamResponse


@csrf_exempt
def publish_sync(request: HttpRequest) -> HttpResponse:
    event = publish(request.POST["group"], request.POST["event"], request.POST["data"])
    return JsonResponse({"offset": event.offset})


@csrf_exempt
async def publish_async(request: HttpRequest) -> HttpResponse:
    event = await apublish(request.POST["group"], request.POST["event"], request.POST["data"])
    return JsonResponse({"offset": event.offset})


@csrf_exempt
def publish_in_thread(request: HttpRequest) -> HttpResponse:
    import threading

    data = dict(request.POST.items())
    thread = threading.Thread(target=lambda: publish(data["group"], data["event"], data["data"]))
    thread.start()
    thread.join()
    return JsonResponse({})


async def failing_stream(request: HttpRequest) -> HttpResponse:
    async def events() -> AsyncIterator[Any]:
        yield "before", {"n": 1}
        raise RuntimeError("on purpose")

    return EventStreamResponse(events())


urlpatterns = [
    path("test/publish/", publish_sync),
    path("test/apublish/", publish_async),
    path("test/publish-in-thread/", publish_in_thread),
    path("test/failing/", failing_stream),
    *demo,
]
