"""The Content-Security-Policy header: pages may only use what this site serves."""

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import cast

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

SyncHandler = Callable[[HttpRequest], HttpResponseBase]
AsyncHandler = Callable[[HttpRequest], Awaitable[HttpResponseBase]]

POLICY = "; ".join(
    (
        "default-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "object-src 'none'",
    )
)


def _protect(response: HttpResponseBase) -> HttpResponseBase:
    # Django's own error pages in DEBUG have inline style and script.
    if not (settings.DEBUG and response.status_code >= 400):
        response.headers.setdefault("Content-Security-Policy", POLICY)
    return response


@sync_and_async_middleware
def content_security_policy(get_response: SyncHandler | AsyncHandler) -> SyncHandler | AsyncHandler:
    """Add the policy to every answer, of sync and of async views."""
    if iscoroutinefunction(get_response):
        next_async = cast(AsyncHandler, get_response)

        async def protect_async(request: HttpRequest) -> HttpResponseBase:
            return _protect(await next_async(request))

        return protect_async

    next_sync = cast(SyncHandler, get_response)

    def protect_sync(request: HttpRequest) -> HttpResponseBase:
        return _protect(next_sync(request))

    return protect_sync
