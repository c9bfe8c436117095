"""Presence: the signed-in users who have a stream of a group, each once.

The same list in every process; its changes are events `presence.join` and `presence.leave`.
Nothing below knows of presence: it follows the signals of streams and is a duty of each process.

Public: the names of this package. Private: `models` and `tracker`.
"""

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
