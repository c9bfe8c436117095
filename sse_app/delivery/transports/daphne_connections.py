"""Daphne's connections, without the open streams in Daphne's own checks of all connections.

Daphne goes through its connections each second, to find applications that have ended, and every two
seconds, to find requests that exceed `--http-timeout`. With thousands of idle streams these checks
find nothing, and take most of the CPU time of the process.
"""

from __future__ import annotations

import asyncio
from typing import Any


class Connections(dict[Any, Any]):
    """Takes the place of `Server.connections`, of which Daphne's checks use `items()` and `keys()`.

    Everything else, such as the shutdown of Daphne, finds all connections.
    """

    def __init__(self, connections: dict[Any, Any]) -> None:
        super().__init__(connections)
        self._checked = dict(connections)

    def __setitem__(self, request: Any, details: Any) -> None:
        super().__setitem__(request, details)
        self._checked[request] = details

    def __delitem__(self, request: Any) -> None:
        super().__delitem__(request)
        self._checked.pop(request, None)

    def items(self) -> Any:
        """Return the connections that Daphne checks, with their details."""
        return self._checked.items()

    def keys(self) -> Any:
        """Return the connections that Daphne checks."""
        return self._checked.keys()

    def skip(self, request: Any) -> None:
        """Check `request` no more, until `check()`."""
        self._checked.pop(request, None)

    def check(self, request: Any) -> None:
        """Check `request` again, if it is still a connection."""
        if request in self:
            self._checked[request] = self[request]


def skip(request: Any) -> None:
    """Have Daphne skip `request` in its checks, until `check()` or until its application ends.

    Does nothing with the option `--http-timeout`, or if this Daphne is not known well enough.
    """
    server = getattr(request, "server", None)
    connections = getattr(server, "connections", None)
    if type(connections) is dict:
        connections = server.connections = Connections(connections)  # type: ignore[union-attr]
    if not isinstance(connections, Connections) or getattr(server, "http_timeout", None):
        return
    application = connections.get(request, {}).get("application_instance")
    if isinstance(application, asyncio.Task):
        connections.skip(request)
        application.add_done_callback(lambda _: check(request))


def check(request: Any) -> None:
    """Have Daphne check `request` again."""
    connections = getattr(getattr(request, "server", None), "connections", None)
    if isinstance(connections, Connections):
        connections.check(request)
