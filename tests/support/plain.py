"""A plain Django site, settings and URLs in one: its `STATIC_URL` is relative, as Django begins."""

from __future__ import annotations

from typing import Any

from django.urls import path

SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [
    "daphne",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.staticfiles",
    "channels",
    "sse_app",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
ROOT_URLCONF = "tests.support.plain"
ASGI_APPLICATION = "tests.support.plain_asgi.wrapped"
STATIC_URL = "static/"

#: The `root_path` of each WebSocket, and the functions of Twisted that have parsed something.
SOCKETS: list[str] = []
PARSED: list[str] = []


def page(request: Any) -> Any:
    """Answer with the addresses that a page has."""
    from django.http import JsonResponse
    from django.templatetags.static import static
    from django.urls import reverse

    return JsonResponse({"script": static("a.js"), "page": reverse("page"), "sockets": SOCKETS})


def form(request: Any) -> Any:
    """Answer with the fields and files that Django finds, and with the parsers of Twisted."""
    from django.http import JsonResponse

    files = {name: file.read().decode() for name, file in request.FILES.items()}
    return JsonResponse({"fields": request.POST, "files": files, "parsed": PARSED})


def body(request: Any) -> Any:
    """Answer with the length of the body, whatever it is."""
    from django.http import JsonResponse

    return JsonResponse({"length": len(request.body), "parsed": PARSED})


urlpatterns = [path("page/", page, name="page"), path("form/", form), path("body/", body)]
