"""Uvicorn, Hypercorn and Granian, started as the documentation says."""

from __future__ import annotations

import re
import shlex
import socket

from .servers import ROOT, Server


class Uvicorn(Server):
    module = "uvicorn"


class Hypercorn(Server):
    module = "hypercorn"

    def where(self) -> list[str]:
        return ["--bind", f"fd://{self.socket.fileno()}"]


class Granian(Server):
    """Takes no socket: it listens on a port that the test holds, by `SO_REUSEPORT`."""

    module = "granian"

    def listen(self) -> socket.socket:
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        return held

    def where(self) -> list[str]:
        return ["--port", str(self.port)]


KINDS: list[type[Server]] = [Uvicorn, Hypercorn, Granian]


def documented(kind: type[Server]) -> list[str]:
    """The options of the guide's command."""
    guide = (ROOT / "docs" / "reference" / "guide.md").read_text()
    section = guide.split("\n## Other servers\n")[1].split("\n## ")[0]
    (command,) = re.findall(rf"^{kind.module} .+$", section, re.MULTILINE)
    return shlex.split(command)[1:-1]
