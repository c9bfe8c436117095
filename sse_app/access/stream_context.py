"""The settings `STREAM_CONTEXT` and `NAMESPACE` for one stream.

No Django middleware runs before a stream, so nothing else says which tenant its request belongs to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from io import BytesIO
from typing import Any, Final, NamedTuple

from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.http import Http404

from ..conf import enter_namespace, namespace, settings, within_namespace
from ..runtime import surroundings
from ..runtime.callables import in_thread
from ..runtime.rare_logs import RareLog
from ..runtime.surroundings import surrounded
from ..runtime.telemetry import log_fields
from ..runtime.threads import STORE
from .authorization import imported
from .refusals import Refused

_failed_log: Final = RareLog(logging.getLogger("sse_app"), logging.ERROR)


class StreamContext(NamedTuple):
    """The namespace of a stream's groups, and what surrounds each call of the project's code."""

    namespace: str = ""
    manager: surroundings.Manager | None = None

    def enter(self) -> None:
        """Set both for the rest of this context, which is that of a task for the stream."""
        surroundings.surround(self.manager)
        enter_namespace(self.namespace)

    @contextmanager
    def within(self) -> Iterator[None]:
        """Set both within the block."""
        with within_namespace(self.namespace), surroundings.surrounding(self.manager):
            yield


#: The one of all streams where neither of the settings is used.
PLAIN: Final = StreamContext()


class ContextFailed(Exception):
    """Raised instead of an error of `STREAM_CONTEXT` or `NAMESPACE`, which has been logged."""


async def enter_context(scope: Mapping[str, Any]) -> StreamContext:
    """Enter and return the context of the stream with this ASGI scope.

    Raises `Refused` if one of the project's functions raises `PermissionDenied` or `Http404`, and
    `ContextFailed` for any other error.
    """
    if settings().STREAM_CONTEXT is None and settings().NAMESPACE is None:
        return PLAIN
    try:
        context = stream_context()
        manager = None if context is None else partial(_entered, context, scope)
        surroundings.surround(manager)
        work, seconds = surrounded(namespace), settings().POLICY_SECONDS
        entered = StreamContext(await in_thread(work, threads=STORE, seconds=seconds), manager)
    except (PermissionDenied, Http404) as error:
        raise Refused(403, "Not permitted.") from error
    except Exception as error:
        _failed_log(
            "STREAM_CONTEXT or NAMESPACE failed for a stream: %r",
            error,
            exc_info=True,
            extra=log_fields(error=error),
        )
        raise ContextFailed from error
    entered.enter()
    return entered


def stream_context() -> Callable[..., Any] | None:
    """Return the function `STREAM_CONTEXT`, None without one. Raises `ImproperlyConfigured`."""
    path = settings().STREAM_CONTEXT
    return None if path is None else imported("STREAM_CONTEXT", path)


def _entered(
    context: Callable[..., AbstractContextManager[object]], scope: Mapping[str, Any]
) -> AbstractContextManager[object]:
    # A new request for each call: the stream keeps its scope, which is smaller.
    return context(ASGIRequest(scope, BytesIO()))
