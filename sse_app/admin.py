"""Django's admin of the app: this module registers the lists of the wings."""

from .access.admin import AccessTokenAdmin
from .broadcasts.action import BroadcastActionMixin
from .broadcasts.admin import PERMISSION, BroadcastAdmin
from .operations.dashboard.admin import LiveStreamsAdmin

__all__ = [
    "PERMISSION",
    "AccessTokenAdmin",
    "BroadcastActionMixin",
    "BroadcastAdmin",
    "LiveStreamsAdmin",
]
