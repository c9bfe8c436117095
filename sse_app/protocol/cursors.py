"""`Cursor`: the positions of a stream, to and from the opaque event id.

Pure: no I/O and no Django settings. The id is `1.<group hash>-<epoch>-<offset><mark>`, with one
such part for each group, joined by dots. It is ASCII without spaces, and below 1 KiB for twenty
groups, because longer ids make browsers send a CORS preflight when they reconnect. Ids that older
versions of the app made have no marks.
"""

from __future__ import annotations

import re
from base64 import b32encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple, Self

MAX_BYTES: Final = 1024

_VERSION: Final = "1"
_PART: Final = re.compile(
    r"([a-z2-7]{8})-([a-z0-9]{1,16})-(0|[1-9][0-9]{0,17})([a-z][a-z0-9]{3})?\Z", re.ASCII
)
_EPOCH: Final = re.compile(r"[a-z0-9]{1,16}\Z", re.ASCII)
_MARK: Final = re.compile(r"[a-z][a-z0-9]{3}\Z", re.ASCII)
_MOST: Final = 10**18 - 1
#: The characters of a mark; the first one is one of the first sixteen.
MARK_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"


class Position(NamedTuple):
    """A position in one group's log: after the event `offset` of the log named `epoch`.

    `mark` is the random mark of that event. A log that went back and grew again has another event
    at the same offset, with another mark. "": the mark is not known, so any mark fits.
    """

    epoch: str
    offset: int
    mark: str = ""

    @property
    def is_start(self) -> bool:
        """Whether the group had no events. The mark is then the mark of the whole log."""
        return self[:2] == START[:2]

    def agrees(self, other: Position) -> bool:
        """Return whether both can be the same position of the same log."""
        return self[:2] == other[:2] and marks_agree(self.mark, other.mark)


def marks_agree(one: str, other: str) -> bool:
    """Return whether two marks can be the same: they are equal, or one of them is not known."""
    return one == other or not one or not other


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


def validate_mark(mark: object) -> None:
    """Raise `ValueError` unless `mark` is the mark of an event, or "" for one that is not known."""
    if mark != "" and not (isinstance(mark, str) and _MARK.match(mark)):
        raise ValueError(
            f"Invalid mark {mark!r}: 4 ASCII lower-case letters and digits, the first a letter."
        )


@lru_cache(maxsize=65_536)
def group_hash(group: str) -> str:
    """Return the eight characters that name `group` in an id."""
    return b32encode(blake2b(group.encode(), digest_size=5).digest()).decode("ascii").lower()


def encode_cursor(positions: Mapping[str, Position], now: float) -> str:
    """Return the id for `positions`, by group name, at Unix time `now`."""
    parts = [_VERSION]
    for group, position in positions.items():
        epoch, offset, mark = position
        number = int(now) if offset == 0 and position.is_start else offset
        parts.append(f"{group_hash(group)}-{epoch}-{number}{mark}")
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
            positions[found[1]] = Position(found[2], int(found[3]), found[4] or "")
        return cls(positions)

    def get(self, group: str) -> Position | None:
        """Return the position in `group`, or None if the cursor does not mention it."""
        position = self.positions.get(group_hash(group))
        if position and position.epoch == START.epoch:
            return START._replace(mark=position.mark)
        return position

    def seen_empty_at(self, group: str) -> int | None:
        """Return the Unix time at which `group` was seen empty, None if it had events."""
        position = self.positions.get(group_hash(group))
        return position.offset if position and position.epoch == START.epoch else None
