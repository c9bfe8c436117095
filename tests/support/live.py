"""A page whose parts are live, in the server's process; a test sets what the page shows."""

from __future__ import annotations

import time
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template import RequestContext, Template
from django.views.decorators.http import condition

from sse_app import live_part

#: What the template is rendered with, and the template.
context: dict[str, Any] = {"rows": []}
body = ""
head = ""
#: "" for the page, else how the view answers.
answer = ""
#: Seconds that the view waits after its rows are read.
delay = 0.0
#: The part whose loads wait after their rows are read.
held = ""
#: The value of `Sse-Live` of each request that has begun.
began: list[str] = []
#: The value of `Sse-Live` of each request, and the status of its answer.
requests: list[tuple[str, int]] = []


def _etag(request: HttpRequest) -> str | None:
    return f'"{context["etag"]}"' if "etag" in context else None


@condition(etag_func=_etag)
def _page(request: HttpRequest) -> HttpResponse:
    shell = "<!doctype html><title>{{ rows|length }}</title>{% load sse %}{% sse_script %}"
    template = Template(f"{shell}{head}<body>{body}")
    rendered = template.render(RequestContext(request, context))
    time.sleep(delay)
    began.append(live_part(request))
    while held and held == live_part(request):
        time.sleep(0.01)
    return HttpResponse(rendered)


def view(request: HttpRequest) -> HttpResponse:
    """Answer as the test has set it."""
    if not answer:
        response = _page(request)
    elif answer == "login":
        response = redirect("/login/")
    else:
        response = HttpResponse(f"<p>{answer}", status=int(answer) if answer.isdigit() else 200)
    requests.append((live_part(request), response.status_code))
    return response
