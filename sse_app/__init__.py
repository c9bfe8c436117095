"""Live updates from Django over Server-Sent Events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import presence
    from .access.disconnect import adisconnect, disconnect
    from .access.tickets import aissue_ticket, issue_ticket
    from .access.tokens import aissue_token, arevoke_tokens, issue_token, revoke_tokens
    from .delivery.snapshots import snapshot
    from .delivery.subscriber import ContinuityLost, subscribe
    from .protocol.events import Event
    from .protocol.groups import group_name, user_group
    from .publishing.fragments import apublish_template, publish_template
    from .publishing.inbox import areply, off, on, reply
    from .publishing.page_cursor import acursor, cursor, live_part
    from .publishing.progress import progress
    from .publishing.publish import apublish, apublish_many, publish, publish_many

__version__ = "0.1.0"
__all__ = [
    "ContinuityLost",
    "Event",
    "acursor",
    "adisconnect",
    "aissue_ticket",
    "aissue_token",
    "apublish",
    "apublish_many",
    "apublish_template",
    "areply",
    "arevoke_tokens",
    "cursor",
    "disconnect",
    "group_name",
    "issue_ticket",
    "issue_token",
    "live_part",
    "off",
    "on",
    "presence",
    "progress",
    "publish",
    "publish_many",
    "publish_template",
    "reply",
    "revoke_tokens",
    "snapshot",
    "subscribe",
    "user_group",
]

_MODULES = {
    "ContinuityLost": "delivery.subscriber",
    "Event": "protocol.events",
    "acursor": "publishing.page_cursor",
    "adisconnect": "access.disconnect",
    "aissue_ticket": "access.tickets",
    "aissue_token": "access.tokens",
    "apublish": "publishing.publish",
    "apublish_many": "publishing.publish",
    "apublish_template": "publishing.fragments",
    "areply": "publishing.inbox",
    "arevoke_tokens": "access.tokens",
    "cursor": "publishing.page_cursor",
    "disconnect": "access.disconnect",
    "group_name": "protocol.groups",
    "issue_ticket": "access.tickets",
    "issue_token": "access.tokens",
    "live_part": "publishing.page_cursor",
    "off": "publishing.inbox",
    "on": "publishing.inbox",
    "progress": "publishing.progress",
    "publish": "publishing.publish",
    "publish_many": "publishing.publish",
    "publish_template": "publishing.fragments",
    "reply": "publishing.inbox",
    "revoke_tokens": "access.tokens",
    "snapshot": "delivery.snapshots",
    "subscribe": "delivery.subscriber",
    "user_group": "protocol.groups",
}


def __getattr__(name: str) -> Any:
    # Django imports this package before its apps are ready, so modules that need them load late.
    from importlib import import_module

    if name == "presence":
        return import_module(".presence", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
