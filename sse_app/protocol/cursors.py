"""Where a stream stands in each of its groups, to and from the opaque event id.

Pure: no I/O and no Django settings. The id is ASCII, has no space, and stays below 1 KiB for
twenty groups, since over-long ids make browsers send a CORS preflight on reconnect:
`1.<group hash>-<epoch>-<offset>`, one such part per group, parts joined by dots.
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
    """A place in one group's log: after the event `offset` of the log named `epoch`."""

    epoch: str
    offset: int


#: Before the first event of a group that never had one; every epoch begins here. In an id it has,
#: in place of the offset, the Unix time in seconds at which the group was seen empty.
START: Final = Position("0", 0)
#: Where a reader stands who was not given yet what comes first: a reset, or the group's state. The
#: ids it gets until then have to say so, since a client that loses the rest comes back with one. It
#: reads as a group seen empty in the first second of Unix time, which is always refused.
LOST: Final = Position(START.epoch, 1)


def validate_position(epoch: object, offset: object) -> None:
    """Raise `ValueError` unless a cursor can hold an event's place."""
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
    """Return the eight characters that stand for `group` in an id."""
    return b32encode(blake2b(group.encode(), digest_size=5).digest()).decode("ascii").lower()


def encode_cursor(positions: Mapping[str, Position], now: float) -> str:
    """Return the id of who stands at `positions`, given by group name, at Unix time `now`."""
    parts = [_VERSION]
    for group, position in positions.items():
        epoch, offset = position
        parts.append(f"{group_hash(group)}-{epoch}-{int(now) if position == START else offset}")
    return ".".join(parts)


@dataclass(frozen=True)
class Cursor:
    """What an id says: positions by group hash. Immutable."""

    positions: Mapping[str, Position] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the cursor that `text` stands for, or None if it can't be read as one."""
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
        """Return the Unix time at which `group` was seen empty, None if it was not."""
        position = self.positions.get(group_hash(group))
        return position.offset if position and position.epoch == START.epoch else None
