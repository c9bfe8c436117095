"""Checks of a POST before its view runs: the site that asks, and the CSRF token."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_POST

from ..views.bodies import answers_refusals
from .origins import check_post
from .refusals import Refused

View = Callable[..., HttpResponse]


def posted_by_pages(view: View) -> View:
    """Decorate a sync view that pages POST to: a refused request gets its answer as JSON.

    Where the project has no authentication middleware, or one that sets no user, the request gets
    an `AnonymousUser`.
    """
    checked = csrf_protect(require_POST(answers_refusals(view)))

    @answers_refusals
    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        _check(request)
        if not hasattr(getattr(request, "user", None), "is_authenticated"):
            request.user = AnonymousUser()
        return checked(request, *args, **kwargs)

    return guarded


def guard_posts(patterns: list[URLPattern]) -> list[URLPattern]:
    """Return the URLs of an admin, so that other sites' pages can POST to none of them."""
    for pattern in patterns:
        if not iscoroutinefunction(pattern.callback):  # The dashboard's feed takes GET only.
            pattern.callback = _guarded(pattern.callback)
    return patterns


def _guarded(view: View) -> View:
    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            _check(request)
        except Refused as refused:
            plain = "text/plain; charset=utf-8"
            return HttpResponse(str(refused), status=refused.status, content_type=plain)
        return view(request, *args, **kwargs)

    return guarded


def _check(request: HttpRequest) -> None:
    if request.method == "POST":
        check_post(request)
