"""Live updates from Django over Server-Sent Events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import presence
    from .events import Event
    from .fragments import apublish_template, publish_template
    from .inbox import off, on
    from .pages import acursor, cursor
    from .publishing import apublish, apublish_many, publish, publish_many
    from .replies import areply, reply
    from .revocation import adisconnect, disconnect
    from .snapshots import snapshot
    from .subscribing import ContinuityLost, subscribe
    from .task_progress import progress

__version__ = "0.1.0"
__all__ = [
    "ContinuityLost",
    "Event",
    "acursor",
    "adisconnect",
    "apublish",
    "apublish_many",
    "apublish_template",
    "areply",
    "cursor",
    "disconnect",
    "off",
    "on",
    "presence",
    "progress",
    "publish",
    "publish_many",
    "publish_template",
    "reply",
    "snapshot",
    "subscribe",
]

_MODULES = {
    "ContinuityLost": "subscribing",
    "Event": "events",
    "acursor": "pages",
    "adisconnect": "revocation",
    "apublish": "publishing",
    "apublish_many": "publishing",
    "apublish_template": "fragments",
    "areply": "replies",
    "cursor": "pages",
    "disconnect": "revocation",
    "off": "inbox",
    "on": "inbox",
    "progress": "task_progress",
    "publish": "publishing",
    "publish_many": "publishing",
    "publish_template": "fragments",
    "reply": "replies",
    "snapshot": "snapshots",
    "subscribe": "subscribing",
}


def __getattr__(name: str) -> Any:
    # Django imports this package before its apps are ready, so what needs them is loaded late.
    from importlib import import_module

    if name == "presence":
        return import_module(".presence", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
