"""`Stream`: one client's subscription as bytes, with its heartbeat and the end of its life."""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Mapping
from typing import Any, Final

from .conf import settings
from .cursors import Cursor, Position
from .eventlog.contract import Reason
from .events import HEARTBEAT, Event, encode_control
from .subscriptions import Sink, Subscription
from .transports import Transport

#: Seconds after which a client that was told to close comes back, by the reason, at random.
CLOSE_RETRY: Final[Mapping[str, tuple[float, float]]] = {
    "age": (0.2, 0.5),
    "shutdown": (1.0, 10.0),
    "expired": (3600.0, 3600.0),
    "auth": (3600.0, 3600.0),
}
#: Reasons that end a stream without a farewell: nobody can read it.
UNHEARD: Final = frozenset({"disconnect", "broken"})


class Stream(Sink):
    """What signals and the hub see of one client's response. Its subscription feeds it."""

    def __init__(
        self,
        transport: Transport,
        groups: Collection[str],
        names: Collection[str] = (),
        *,
        user: Any = None,
        address: str = "",
        ping: bool = False,
        life: float,
    ) -> None:
        self.subscription = Subscription(self, groups, names)
        self.groups = self.subscription.groups
        self.user = user
        self.address = address
        self.opened_at = time.time()
        self._transport = transport
        self._ping = ping
        self._written_at = time.monotonic()
        self._ends_at = self._written_at + life * random.uniform(0.8, 1.2)
        self._pinged: dict[str, Position] = {}
        transport.on_broken = lambda: self.subscription.close("broken")

    def open(self, *, recovered: bool, missed: int) -> None:
        """Write `sse.open`; its id is the position before the replay."""
        data = {"recovered": recovered, "missed": missed, "groups": list(self.groups)}
        self._pinged = dict(self.subscription.positions)
        id, retry = str(self.subscription.cursor), random.uniform(*settings().RETRY)
        self._write(encode_control("sse.open", data, id=id, retry=retry))

    @property
    def close_reason(self) -> str | None:
        """Why the stream ended; None while it is open."""
        return self.subscription.close_reason

    def farewell(self) -> None:
        """Write `sse.close` with the reason, unless it means that nobody reads it."""
        reason = self.close_reason or "error"
        if reason not in UNHEARD:
            low, high = CLOSE_RETRY.get(reason, settings().RETRY)
            id = str(self.subscription.cursor) if self.subscription.positions else ""
            retry = random.uniform(low, high)
            self._write(encode_control("sse.close", {"reason": reason}, id=id, retry=retry))

    def tick(self, now: float) -> None:
        """Do what time asks for: a heartbeat, the end of life, giving up a stalled client."""
        self._transport.check(now)
        if now >= self._ends_at:
            self.subscription.close("age")
        elif now - self._written_at >= settings().HEARTBEAT and self._transport.ready:
            self._write(self._heartbeat())

    # --- Sink ---

    @property
    def ready(self) -> bool:
        return self._transport.ready

    async def drained(self) -> None:
        await self._transport.drained()

    def show(self, event: Event, cursor: Cursor | None) -> None:
        self._write(event.encode("" if cursor is None else str(cursor)))

    def reset(self, group: str, reason: Reason, cursor: Cursor) -> None:
        data = {"group": group, "reason": reason}
        self._write(encode_control("sse.reset", data, id=str(cursor)))

    def passed(self, cursor: Cursor) -> None:
        self._write(encode_control("sse.cursor", {}, id=str(cursor)))

    def start_at(self, positions: Mapping[str, Position]) -> None:
        """Stand at `positions` before anything is written."""
        self.subscription.move(positions)

    def _heartbeat(self) -> bytes:
        if not self._ping:
            return HEARTBEAT
        positions = self.subscription.positions
        moved, self._pinged = positions != self._pinged, dict(positions)
        id = str(self.subscription.cursor) if moved else ""
        return encode_control("sse.ping", {}, id=id)

    def _write(self, chunk: bytes) -> None:
        self._written_at = time.monotonic()
        self._transport.write(chunk)
