"""Who listens in this process, and word of what ends that: held at once, in the caller's thread.

A `Revocation` says whose right to listen to what has ended, or must be looked at again. It is
applied here to the streams of this process before the call that revokes returns, and travels to
the other processes as a durable event of the reserved group `CONTROL_GROUP`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Final, Self

from .connections import REPLY_EVENT, Reply
from .events import Event
from .fingerprints import Fingerprint
from .groups import CONTROL_GROUP, validate_group
from .records import about

CONTROL_EVENT: Final = "revoked"
#: Revocations that a stream may have to know of that was being opened meanwhile.
RECENT: Final = 1000

logger = logging.getLogger("sse_app")


@dataclass(frozen=True)
class Revocation:
    """Whose streams it concerns: those of `user` (a primary key as text) or of one `session`, or
    the one `stream` (its id).

    Neither means everybody's. `group`: only this group is lost. `review`: nothing is lost yet, but
    what permitted it must be asked again. `session` is a digest, never the session's key.
    """

    user: str = ""
    session: str = ""
    group: str = ""
    review: bool = False
    stream: str = ""

    @classmethod
    def of(cls, event: Event) -> Self:
        """Return what a control event says. Raises `ValueError` or `TypeError` if nothing."""
        fields = event.json()
        revocation = cls(**fields)
        texts = (revocation.user, revocation.session, revocation.group, revocation.stream)
        if not all(isinstance(text, str) for text in texts) or type(revocation.review) is not bool:
            raise TypeError(f"{fields!r} is no revocation")
        if revocation.group:
            validate_group(revocation.group)
        return revocation

    def to_event(self) -> Event:
        """Return the control event that says so."""
        fields = asdict(self)
        if not self.stream:
            # Processes of an older release, beside which this one may run, do not know it.
            del fields["stream"]
        return Event.of_app(CONTROL_GROUP, CONTROL_EVENT, fields)

    def concerns(self, reader: Reader) -> bool:
        """Whether it is about this reader."""
        if self.stream and self.stream != reader.id:
            return False
        if self.user and self.user != reader.user_key:
            return False
        if self.session and self.session != reader.session_digest:
            return False
        if self.group and self.group not in reader.groups:
            return False
        return bool(reader.user_key) or not self.review


class Reader(ABC):
    """A stream, as far as a revocation is concerned. `user_key` is empty for an anonymous one."""

    id: str
    opened_at: float
    user_key: str
    session_key: str
    #: Django is about to move the session to another key, so its end is no logout.
    session_moves: bool
    session_digest: str

    @property
    @abstractmethod
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that serves it."""

    @property
    @abstractmethod
    def groups(self) -> tuple[str, ...]:
        """What it listens to."""

    @property
    @abstractmethod
    def held(self) -> int:
        """Which revocation holds it, 0 if none does."""

    @abstractmethod
    def revoke(self, revocation: Revocation) -> None:
        """Show nothing more of what is lost or in doubt, from now on. Called from any thread."""

    @abstractmethod
    def take(self, reply: Reply) -> None:
        """Show what is for this stream alone. Called on its own loop."""

    @abstractmethod
    async def lose_revoked(self) -> None:
        """Leave the groups that were revoked."""

    @abstractmethod
    async def readmit(self, fingerprint: Fingerprint) -> None:
        """Ask the policy again if the user's rights have changed, or a signal told of a change."""

    @abstractmethod
    def release(self, mark: int) -> None:
        """Go on, unless something else than `mark` holds it by now."""

    @abstractmethod
    def sign_out(self) -> None:
        """End the stream, as its user or session is no longer the one that opened it."""

    @abstractmethod
    def close(self, reason: str) -> None:
        """End the stream."""


_readers: dict[str, Reader] = {}
_recent: deque[tuple[int, Revocation]] = deque(maxlen=RECENT)
_count = itertools.count(1)
_last = 0


def mark() -> int:
    """Return a place in the order of this process's revocations, for `enter()`."""
    return _last


def enter(reader: Reader, since: int) -> bool:
    """Let `reader` be told of revocations, and first of those that came after `since`.

    It was admitted after `since`, and by what was true then. Returns False, and it must not be
    opened, if its right has ended, if that can't be told any more, or if another has its id. Where
    it is only in doubt it is held, as an open one would be.
    """
    if _readers.setdefault(reader.id, reader) is not reader:
        return False
    if len(_recent) == RECENT and _recent[0][0] > since + 1:
        return False
    return tell(reader, [told for number, told in list(_recent) if number > since])


def tell(reader: Reader, revocations: Collection[Revocation]) -> bool:
    """Let `reader`, which is not open yet, know of `revocations`; see `enter()`."""
    missed = [told for told in revocations if told.concerns(reader)]
    if not all(told.review for told in missed):
        return False
    for told in missed:
        reader.revoke(told)
    return True


def leave(reader: Reader) -> None:
    """Tell `reader` nothing more. Safe to call twice."""
    if _readers.get(reader.id) is reader:
        del _readers[reader.id]


def readers() -> list[Reader]:
    """Return the readers of this process."""
    return list(_readers.values())


def apply(revocation: Revocation) -> None:
    """Hold or end the streams of this process that `revocation` concerns. From any thread."""
    global _last
    # First noted, then told: a stream that enters between the two learns of it from the note.
    number = next(_count)
    _recent.append((number, revocation))
    _last = number
    for reader in readers():
        if revocation.concerns(reader):
            reader.revoke(revocation)


def hand_over(reply: Reply) -> None:
    """Give a reply to its stream, if the running loop has it."""
    reader = _readers.get(reply.stream)
    if reader is not None and reader.loop is asyncio.get_running_loop():
        reader.take(reply)


def revocation_of(event: Event) -> Revocation | None:
    """Return what a control event revokes; None for a reply, and for what is malformed."""
    try:
        return None if event.name == REPLY_EVENT else Revocation.of(event)
    except (TypeError, ValueError) as error:
        skip(error)
        return None


def skip(error: Exception) -> None:
    """Log that a control event can't be read, and why."""
    logger.error("Skipped a malformed control event: %s", error, extra=about(error=error))
