"""Middleware as sites with JSON Web Tokens have it: the user comes from the header, lazily."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.functional import SimpleLazyObject
from rest_framework.exceptions import APIException
from rest_framework_simplejwt.authentication import (
    JWTAuthentication,
    JWTStatelessUserAuthentication,
)

View = Callable[[HttpRequest], HttpResponse]


def _by(authentication: Any, view: View) -> View:
    def middleware(request: HttpRequest) -> HttpResponse:
        session_user = request.user

        def user() -> Any:
            try:
                found = authentication.authenticate(request)
            except APIException:
                found = None
            return session_user if found is None else found[0]

        request.user = SimpleLazyObject(user)  # type: ignore[assignment]
        return view(request)

    return middleware


def of_the_database(view: View) -> View:
    """The user is read from the database."""
    return _by(JWTAuthentication(), view)


def of_the_token(view: View) -> View:
    """The user is what the token says; no model's."""
    return _by(JWTStatelessUserAuthentication(), view)
