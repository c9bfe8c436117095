"""The consumer's route, for an `asgi.py` that uses `ProtocolTypeRouter` directly.

"http": URLRouter([*event_stream_urlpatterns("events/"), re_path("", get_asgi_application())])
"""

from __future__ import annotations

from typing import Any

from django.urls import re_path

from .asgi import guard
from .consumers import EventStreamConsumer

__all__ = ["event_stream_urlpatterns"]


def event_stream_urlpatterns(mount: str = "events/") -> list[Any]:
    """Return the URL patterns of the stream at `mount`, with and without the last slash."""
    path = mount.strip("/").replace(".", r"\.")
    application: Any = guard(EventStreamConsumer.as_asgi(), busy=True)
    return [re_path(rf"^{path}/?$", application)]
