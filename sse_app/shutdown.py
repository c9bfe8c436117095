"""A farewell on every stream when Daphne stops.

Daphne's own shutdown cancels its applications, but one half-sent request makes it fail before it
has reached them all, in silence. This is a hook of our own beside it, by Twisted's public
`addSystemEventTrigger`, installed with the first request and only under Daphne.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

from .daphne_transport import is_sending
from .hub import Hub, running_hubs
from .servers import daphne_of, warn_of_options

FAREWELL_SECONDS: Final = 3.0

_installed: set[int] = set()


def install(send: Any) -> None:
    """Install the hook, once per process, if `send` is Daphne's."""
    server = daphne_of(send)
    if server is None or _installed:
        return
    _installed.add(id(server))
    warn_of_options(send)
    reactor: Any = sys.modules["daphne.server"].reactor
    reactor.addSystemEventTrigger("before", "shutdown", _close_streams)


def _close_streams() -> Any:
    """Close all streams; Twisted waits for the `Deferred` that is returned."""
    from twisted.internet.defer import Deferred

    Hub.draining = True
    for hub in running_hubs():
        for subscription in list(hub.subscriptions):
            subscription.close("shutdown")
    return Deferred.fromFuture(asyncio.ensure_future(_streams_ended()))


async def _streams_ended() -> None:
    deadline = asyncio.get_running_loop().time() + FAREWELL_SECONDS
    while any(hub.subscriptions for hub in running_hubs()) or is_sending():
        if asyncio.get_running_loop().time() > deadline:
            return
        await asyncio.sleep(0.01)
