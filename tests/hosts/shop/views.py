"""The views of a project: a page with a stream, a save, a stream of its own, a login of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from django.contrib.auth import get_user_model, login
from django.contrib.auth.decorators import login_not_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt

from sse_app import on
from sse_app.responses import EventStreamResponse

from .models import Order


@on("echo")
def echo(message: Any) -> Any:
    return {"user": message.user.get_username(), "data": message.data}


def page(request: HttpRequest) -> HttpResponse:
    """A page with a stream of a group that only the page grants. It has no form."""
    return render(request, "shop/page.html")


@csrf_exempt
def save(request: HttpRequest) -> HttpResponse:
    order = Order.objects.create(status=request.POST["status"])
    return JsonResponse({"pk": order.pk})


@transaction.non_atomic_requests
async def clock(request: HttpRequest) -> HttpResponse:
    async def ticks() -> AsyncIterator[Any]:
        for number in range(3):
            yield "tick", {"number": number}

    return EventStreamResponse(ticks())


@csrf_exempt
@login_not_required
def enter(request: HttpRequest) -> HttpResponse:
    """Sign in a superuser with this name, whatever the project's user model is."""
    model = get_user_model()
    name = {model.USERNAME_FIELD: request.POST["name"]}
    user = model._default_manager.filter(**name).first()
    if user is None:
        user = model(**name, is_staff=True, is_superuser=True, is_active=True)
        user.set_password("secret")
        user.save()
    login(request, user, "django.contrib.auth.backends.ModelBackend")
    return JsonResponse({"pk": user.pk})
