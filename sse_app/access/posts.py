"""Keeps the pages of other sites from posting to the admin."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern

from ..conf import namespace
from .origins import check_post
from .refusals import Refused

View = Callable[..., HttpResponse]


def guard_posts(patterns: list[URLPattern]) -> list[URLPattern]:
    """Return the URL patterns of an admin, guarded against POSTs from pages of other sites.

    Within a tenant's namespace all of them are 404, since they show what belongs to all tenants.
    """
    for pattern in patterns:
        if not iscoroutinefunction(pattern.callback):  # The dashboard's stream accepts GET only.
            pattern.callback = _guarded(pattern.callback)
    return patterns


def _guarded(view: View) -> View:
    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        refuse_tenants()
        try:
            refuse_other_sites(request)
        except Refused as refused:
            plain = "text/plain; charset=utf-8"
            return HttpResponse(str(refused), status=refused.status, content_type=plain)
        return view(request, *args, **kwargs)

    return guarded


def refuse_tenants() -> None:
    """Raise `Http404` within a tenant's namespace."""
    if namespace():
        raise Http404("The app's admin shows all tenants, and belongs to none of them.")


def refuse_other_sites(request: HttpRequest) -> None:
    """Raise `Refused` for a POST that comes from a page of another site."""
    if request.method == "POST":
        check_post(request)
