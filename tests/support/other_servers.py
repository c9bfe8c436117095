"""Uvicorn, Hypercorn and Granian, started as the documentation says; gunicorn for WSGI."""

from __future__ import annotations

import re
import shlex
import socket
import sys

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


class Gunicorn(Server):
    """One worker for WSGI, which serves no streams."""

    module = "gunicorn"

    def command(self) -> list[str]:
        bind = ["--bind", f"fd://{self.socket.fileno()}"]
        command = [sys.executable, "-m", self.module, *self.options, *bind]
        return [*command, "tests.support.wsgi:application"]


class GeventGunicorn(Gunicorn):
    """Serves each request in a greenlet."""

    def command(self) -> list[str]:
        return [*super().command(), "--worker-class", "gevent"]


KINDS: list[type[Server]] = [Uvicorn, Hypercorn, Granian]


def documented(kind: type[Server]) -> list[str]:
    """The options of the guide's command."""
    guide = (ROOT / "docs" / "reference" / "guide.md").read_text()
    section = guide.split("\n## Other servers\n")[1].split("\n## ")[0]
    (command,) = re.findall(rf"^{kind.module} .+$", section, re.MULTILINE)
    return shlex.split(command)[1:-1]
