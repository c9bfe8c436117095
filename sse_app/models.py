"""All models of the app, for Django, the admin and projects. The wings import their own."""

from .access.models import AccessToken, Revocation, Ticket
from .broadcasts.models import Broadcast, BroadcastCount
from .broadcasts.models import group_validator as group_validator  # The first migration's.
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
