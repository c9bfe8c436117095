"""Collects the models of the wings for Django, the admin and projects.

Within the app, each wing imports its own module.
"""

from .access.models import AccessToken, Revocation, Ticket
from .broadcasts.models import Broadcast, BroadcastCount
from .broadcasts.models import group_validator as group_validator  # For the first migration.
from .broadcasts.models import name_validator as name_validator
from .eventlog.models import GroupHead, StoredEvent
from .operations.models import ServerProcess
from .presence.models import GroupMember, Presence
from .publishing.models import HandledMessage

__all__ = [
    "AccessToken",
    "Broadcast",
    "BroadcastCount",
    "GroupHead",
    "GroupMember",
    "HandledMessage",
    "Presence",
    "Revocation",
    "ServerProcess",
    "StoredEvent",
    "Ticket",
]
