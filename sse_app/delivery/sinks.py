"""`Sink`: where a subscription puts what it has for its reader."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from ..eventlog.contract import Reason
from ..protocol.events import Event
from .snapshots import State
from .transports.asgi import Direct


class Sink(ABC):
    """Where a subscription puts what it has. Nothing here may block."""

    #: Is it given what `@snapshot` and `RETAIN` say, also after a reset?
    takes_first: ClassVar[bool] = False

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Can it take more now?"""

    @abstractmethod
    async def drained(self) -> None:
        """Return when it can take more again."""

    @abstractmethod
    def show(self, event: Event, cursor: str, block: bytes) -> None:
        """Take an event; `cursor` is the id of the place after it, "" for a non-durable one.

        `block` is both on the wire, the same object for all who get the same.
        """

    @abstractmethod
    def reset(self, group: str, reason: Reason, cursor: str) -> None:
        """Continuity of `group` can't be proved; go on from `cursor`."""

    @abstractmethod
    def passed(self, cursor: str) -> None:
        """Many events were passed over without showing one; the place is now `cursor`."""

    def snapshot(self, state: State, cursor: str) -> None:
        """Take the state of a group; `cursor` is the id of the place it was read after."""
        raise NotImplementedError

    def direct(self) -> Direct | None:
        """Let go what waits, and return what writes HTTP/1.1 chunks straight to its socket.

        None if there is no such thing, or it can't take more now.
        """
        return None

    def joined_cohort(self, before: int) -> None:
        """Only the owner of `direct()` writes from now on, and counts from `before` bytes on."""
        raise NotImplementedError

    def left_cohort(self, written: int, at: float, rest: bytes | None, pending: bytes) -> None:
        """The owner of `direct()` has stopped writing, after `written` bytes in its count.

        The last write was `at`, by the monotonic clock. First the `rest` of a chunk must leave,
        then `pending`. If `rest` is None, the connection is broken.
        """
        raise NotImplementedError
