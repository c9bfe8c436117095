"""`Sink`: the contract of what a subscription writes to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from ..eventlog.contract import Reason
from ..protocol.events import Event
from .snapshots import State
from .transports.asgi import Direct


class Sink(ABC):
    """Takes the events, states and resets of one subscription. No method may block."""

    #: Whether a reader that starts or is reset gets first the state or events of `@snapshot` and
    #: `RETAIN`.
    takes_first: ClassVar[bool] = False

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether the sink can take more now."""

    @property
    def queue(self) -> int:
        """How many bytes wait until the client takes them, as far as this process knows."""
        return 0

    @abstractmethod
    async def drained(self) -> None:
        """Return when the sink can take more again."""

    @abstractmethod
    def show(self, event: Event, cursor: str, block: bytes) -> None:
        """Take an event; `cursor` is the id after the event, "" for a non-durable event.

        `block` is the event with this id on the wire, one object for all readers of the same bytes.
        """

    def hidden(self, event: Event) -> Sequence[str] | None:
        """Return the tabs that do not get an event with `excluded`, because they caused it.

        None: all tabs of the sink get the event. Empty: no tab gets it.
        """
        return None

    @abstractmethod
    def reset(self, group: str, reason: Reason, cursor: str) -> None:
        """Take a reset: earlier events of `group` are lost, and `cursor` is the new id."""

    @abstractmethod
    def passed(self, cursor: str) -> None:
        """Take the new id `cursor`, after many events that a filter did not show."""

    def snapshot(self, state: State, cursor: str) -> None:
        """Take the state of a group; `cursor` is an id from before the state was read."""
        raise NotImplementedError

    def direct(self) -> Direct | None:
        """Send the waiting bytes, and return a function that sends HTTP/1.1 chunks to the socket.

        None if the sink has no such socket, or if the socket can't take more now.
        """
        return None

    def joined_cohort(self, before: int) -> float:
        """From now on only the cohort writes, by `direct()`; its count starts at `before` bytes.

        Return the time of the sink's last write, by the monotonic clock.
        """
        raise NotImplementedError

    def left_cohort(self, written: int, at: float, rest: bytes | None, pending: bytes) -> None:
        """The cohort has stopped writing, at `written` bytes of its count.

        `at`: the time of its last write, by the monotonic clock. The sink sends the `rest` of a
        chunk, then `pending`. If `rest` is None, the connection is broken.
        """
        raise NotImplementedError
