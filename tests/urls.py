"""The demo's URLs and what only tests ask for."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from django.contrib.auth import login, logout
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import RequestContext, Template
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.static import serve

from project.urls import urlpatterns as demo
from sse_app import apublish, publish
from sse_app.access.limits import LIMITS
from sse_app.delivery.hub import running_hubs
from sse_app.responses import EventStreamResponse

from .support import live


@csrf_exempt
def publish_sync(request: HttpRequest) -> HttpResponse:
    event = publish(request.POST["group"], request.POST["event"], request.POST["data"])
    if "fail" in request.POST:
        raise RuntimeError("on purpose")
    return JsonResponse({"offset": event.offset})


@csrf_exempt
def publish_passing(request: HttpRequest) -> HttpResponse:
    data = request.POST
    publish(data["group"], data["event"], data["data"], durable=False)
    return JsonResponse({})


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


async def ending_stream(request: HttpRequest) -> HttpResponse:
    """A stream whose iterable raises what is no `Exception`, named by `error`."""
    name = request.GET["error"]

    async def events() -> AsyncIterator[Any]:
        yield "before", {"n": 1}
        raise getattr(builtins, name, getattr(asyncio, name, None))

    return EventStreamResponse(events())


#: What became of the readers of `resuming_stream`, in order.
LEFT: list[str] = []


async def resuming_stream(request: HttpRequest) -> HttpResponse:
    """Count from where the client was; "wait": and then wait for ever; "fail": and then fail."""

    async def count(after: str) -> AsyncIterator[Any]:
        try:
            for n in range(int(after or 0) + 1, 4):
                yield "count", n, str(n)
            if "wait" in request.GET:
                await asyncio.Event().wait()
            if "fail" in request.GET:
                raise RuntimeError("on purpose")
        finally:
            LEFT.append(request.GET.get("reader", ""))

    return EventStreamResponse(count, request)


class _Escaping(HttpResponse):
    """A response whose body fails half way, in a way that Django lets through."""

    streaming = True
    is_async = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"begun"
        raise RuntimeError("escaped on purpose")


def escaping(request: HttpRequest) -> HttpResponse:
    return _Escaping()


def streams(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"streams": sum(len(hub.subscriptions) for hub in running_hubs())})


def counts(request: HttpRequest) -> HttpResponse:
    """Say what is counted of open streams, by key."""
    return JsonResponse(dict(LIMITS.counts))


def connections(request: HttpRequest) -> HttpResponse:
    """Say how many finished connections Daphne has not reaped."""
    import gc

    from daphne.server import Server

    (server,) = (found for found in gc.get_objects() if isinstance(found, Server))
    waiting = [d for d in server.connections.values() if d.get("disconnected")]
    return JsonResponse({"waiting": len(waiting)})


@csrf_exempt
def log_in(request: HttpRequest) -> HttpResponse:
    user, made = User.objects.get_or_create(username=request.POST["name"])
    if made:
        user.set_password("secret")
        user.save()
    login(request, user, "django.contrib.auth.backends.ModelBackend")
    return JsonResponse({"pk": user.pk})


def page(request: HttpRequest) -> HttpResponse:
    """Render a tag for this request, as a page would."""
    template = Template("{% load sse %}" + request.GET["tag"])
    return HttpResponse(template.render(RequestContext(request, autoescape=False)))


async def async_page(request: HttpRequest) -> HttpResponse:
    """Render the script's tag in async code, where a user can't be loaded."""
    template = Template("{% load sse %}{% sse_script %}")
    return HttpResponse(template.render(RequestContext(request)))


@csrf_exempt
def run(request: HttpRequest) -> HttpResponse:
    """Execute code in the server's process, as one of its views would."""
    names: dict[str, Any] = {"request": request}
    exec(request.POST["code"], names)
    return JsonResponse({"result": names.get("result")})


def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return JsonResponse({})


def whoami(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"pk": request.user.pk})


urlpatterns = [
    path("test/escaping/", escaping),
    path("test/streams/", streams),
    path("test/counts/", counts),
    path("test/connections/", connections),
    path("test/login/", log_in),
    path("test/whoami/", whoami),
    path("test/logout/", log_out),
    path("test/page/", page),
    path("test/async-page/", async_page),
    path("test/live/", live.view),
    path("test/run/", run),
    path("test/publish/", publish_sync),
    path("test/publish-passing/", publish_passing),
    path("test/apublish/", publish_async),
    path("test/publish-in-thread/", publish_in_thread),
    path("test/failing/", failing_stream),
    path("test/ending/", ending_stream),
    path("test/clients/<path:path>", serve, {"document_root": Path(__file__).parent / "clients"}),
    path("test/resuming/", resuming_stream),
    *demo,
]
