"""Who is in a group: the signed-in users with a stream of it."""

from .roster import JOIN, LEAVE, Member, amembers, is_kept, members, patterns

__all__ = [
    "JOIN",
    "LEAVE",
    "Member",
    "amembers",
    "is_kept",
    "members",
    "patterns",
]
