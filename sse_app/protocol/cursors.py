"""`Cursor`: the positions of a stream, to and from the opaque event id.

Pure: no I/O and no Django settings. The id is `1.<group hash>-<epoch>-<offset>`, with one such part
for each group, joined by dots. It is ASCII without spaces, and below 1 KiB for twenty groups,
because longer ids make browsers send a CORS preflight when they reconnect.
"""

from __future__ import annotations

import re
import secrets
from base64 import b32encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple, Self

MAX_BYTES: Final = 1024

_VERSION: Final = "1"
_PART: Final = re.compile(r"([a-z2-7]{8})-([a-z0-9]{1,16})-(0|[1-9][0-9]{0,17})\Z", re.ASCII)
_EPOCH: Final = re.compile(r"[a-z0-9]{1,16}\Z", re.ASCII)
_MOST: Final = 10**18 - 1


class Position(NamedTuple):
    """A position in one group's log: after the event `offset` of the log named `epoch`."""

    epoch: str
    offset: int


#: The position in a group without events; every epoch begins here. An id has, instead of this
#: offset, the Unix time in seconds at which the group was seen empty.
START: Final = Position("0", 0)
#: The position of a reader that has not got its first reset or state yet. A client that disconnects
#: before that reconnects with this position, and must get the reset or state then. An id with this
#: position says that the group was seen empty in the first second of Unix time, which always leads
#: to a reset.
LOST: Final = Position(START.epoch, 1)


def validate_position(epoch: object, offset: object) -> None:
    """Raise `ValueError` unless `epoch` and `offset` are a position that a cursor can hold."""
    if not isinstance(epoch, str) or not _EPOCH.match(epoch) or epoch == START.epoch:
        raise ValueError(
            f"Invalid epoch {epoch!r}: 1 to 16 ASCII lower-case letters and digits, but not "
            f"{START.epoch!r}."
        )
    if type(offset) is not int or not 1 <= offset <= _MOST:
        raise ValueError(f"Invalid offset {offset!r}: an int from 1 to {_MOST}.")


def new_epoch() -> str:
    """Return a short random name for a group's log."""
    return b32encode(secrets.token_bytes(5)).decode("ascii").lower()


@lru_cache(maxsize=65_536)
def group_hash(group: str) -> str:
    """Return the eight characters that name `group` in an id."""
    return b32encode(blake2b(group.encode(), digest_size=5).digest()).decode("ascii").lower()


def encode_cursor(positions: Mapping[str, Position], now: float) -> str:
    """Return the id for `positions`, by group name, at Unix time `now`."""
    parts = [_VERSION]
    for group, position in positions.items():
        epoch, offset = position
        parts.append(f"{group_hash(group)}-{epoch}-{int(now) if position == START else offset}")
    return ".".join(parts)


@dataclass(frozen=True)
class Cursor:
    """The positions of an id, by group hash. Immutable."""

    positions: Mapping[str, Position] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the cursor of the id `text`, or None if that is invalid."""
        if len(text) > MAX_BYTES:
            return None
        version, *parts = text.split(".")
        if version != _VERSION or not parts:
            return None
        positions = {}
        for part in parts:
            found = _PART.match(part)
            if found is None:
                return None
            positions[found[1]] = Position(found[2], int(found[3]))
        return cls(positions)

    def get(self, group: str) -> Position | None:
        """Return the position in `group`, or None if the cursor does not mention it."""
        position = self.positions.get(group_hash(group))
        return START if position and position.epoch == START.epoch else position

    def seen_empty_at(self, group: str) -> int | None:
        """Return the Unix time at which `group` was seen empty, None if it had events."""
        position = self.positions.get(group_hash(group))
        return position.offset if position and position.epoch == START.epoch else None
