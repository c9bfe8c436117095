"""Where the log of a run is stored: read without the app, and sent back to an earlier state.

Nothing here shares code with the app: SQL by `sqlite3` and `psycopg`, `XRANGE` by redis-py.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from ..support.cables import Cable
from ..support.servers import connect_postgresql, empty_database, eventually
from ..support.valkeys import Valkey

#: For each group the offsets and data of its events, in order.
Log = Mapping[str, Sequence[tuple[int, str]]]

HEADS: Final = "sse_app_grouphead"
EVENTS: Final = "sse_app_storedevent"
READ: Final = (
    f'SELECT "group", "offset", "data" FROM {EVENTS} WHERE "offset" IS NOT NULL '
    'ORDER BY "group", "offset"'
)
#: Primary keys that the copy and the database each use for rows of their own.
KEYS_APART: Final = 100_000
PREFIX: Final = "chaos"
#: Options of a Valkey that loses nothing it has acknowledged when it is killed.
DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always")


@dataclass(frozen=True)
class Fork:
    """One time that a log went back, between `begun` and `at`.

    What was acknowledged before `copied` is still there.
    """

    copied: float
    begun: float
    at: float
    abandoned: Log


class Store(ABC):
    """One log. Servers and publishers find it by `environment` and the setting `event_log`."""

    event_log: Any = "sse_app.eventlog.DatabaseEventLog"
    #: Whether the copy can grow before it is put in place of the log.
    copy_grows = True
    #: Whether the copy is a database that has to be migrated.
    has_tables_beside = False

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._copied = 0.0

    @abstractmethod
    def read(self) -> Log:
        """Return the events as they are stored."""

    def copy(self) -> None:
        """Remember the log as it is now; what was acknowledged before is in the copy."""
        self._copied = time.monotonic()
        self._copy()

    @abstractmethod
    def _copy(self) -> None: ...

    @property
    @abstractmethod
    def copied(self) -> dict[str, str]:
        """The environment of a process that publishes to the copy, which then grows."""

    @property
    def copied_event_log(self) -> Any:
        """The setting `EVENT_LOG` of such a process."""
        return self.event_log

    def go_back(self) -> Fork:
        """Put the copy, as it has grown, in place of the log, in one step."""
        begun = time.monotonic()
        abandoned = self._go_back()
        fork = Fork(self._copied, begun, time.monotonic(), abandoned)
        self._went_back()
        return fork

    @abstractmethod
    def _go_back(self) -> Log: ...

    def _went_back(self) -> None:  # noqa: B027 - most need nothing
        """Get ready for the next time."""

    @property
    def servers(self) -> list[Valkey]:
        """The servers of the log itself that can be killed and frozen."""
        return []

    @property
    def cables(self) -> list[Cable]:
        """The connections to them that can be cut."""
        return []

    @contextmanager
    def frozen_session(self, group: str) -> Iterator[None]:
        """Let a session that has locked the head of `group` do nothing more, until the end."""
        yield

    def kill(self) -> None:
        """Kill the servers."""
        for server in self.servers:
            server.kill()

    def start(self) -> None:
        """Start them again, on their data."""
        for server in self.servers:
            server.start()


def grouped(rows: Iterable[tuple[str, int, bytes]]) -> Log:
    """Return rows of a database by their groups."""
    log: dict[str, list[tuple[int, str]]] = {}
    for group, offset, data in rows:
        log.setdefault(group, []).append((offset, bytes(data).decode()))
    return log


class SqliteStore(Store):
    """A file; the copy is made as a backup is, while others write."""

    def __init__(self, folder: Path) -> None:
        self._file, self._backup = folder / "db.sqlite3", folder / "copy.sqlite3"
        super().__init__({"DATABASE_URL": f"sqlite:///{self._file}"})

    def read(self) -> Log:
        with closing(self._connect(self._file)) as connection:
            return grouped(connection.execute(READ))

    def _copy(self) -> None:
        for path in self._backup.parent.glob(f"{self._backup.name}*"):
            path.unlink()
        with (
            closing(self._connect(self._file)) as source,
            closing(self._connect(self._backup)) as target,
        ):
            source.backup(target)

    @property
    def copied(self) -> dict[str, str]:
        return {"DATABASE_URL": f"sqlite:///{self._backup}"}

    def _go_back(self) -> Log:
        with closing(self._connect(self._file)) as connection:
            connection.execute("ATTACH ? AS copied", [str(self._backup)])
            connection.execute("BEGIN IMMEDIATE")
            abandoned = grouped(connection.execute(READ.replace(EVENTS, f"main.{EVENTS}")))
            for table in (HEADS, EVENTS):
                connection.execute(f"DELETE FROM main.{table}")
                connection.execute(f"INSERT INTO main.{table} SELECT * FROM copied.{table}")
            connection.execute("COMMIT")
        return abandoned

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=60, isolation_level=None)


class PostgresqlStore(Store):
    """A database, and beside it one more for the copy, with the tables made by `migrate`."""

    has_tables_beside = True

    def __init__(self, name: str, copy: str) -> None:
        super().__init__({"TEST_POSTGRES_NAME": name, "DATABASE_URL": ""})
        self._name, self._beside = name, copy

    def read(self) -> Log:
        with connect_postgresql(self._name) as connection:
            return grouped(connection.execute(READ))

    def _copy(self) -> None:
        with connect_postgresql(self._beside) as target:
            self._fill(target, self._name)

    @property
    def copied(self) -> dict[str, str]:
        return {**self.environment, "TEST_POSTGRES_NAME": self._beside}

    def _go_back(self) -> Log:
        with connect_postgresql(self._name) as connection:
            while True:
                try:
                    with connection.transaction():
                        connection.execute(f"LOCK TABLE {HEADS}, {EVENTS}")
                        abandoned = grouped(connection.execute(READ))
                        self._fill(connection, self._beside)
                except psycopg.errors.DeadlockDetected:
                    continue
                return abandoned

    @contextmanager
    def frozen_session(self, group: str) -> Iterator[None]:
        with connect_postgresql(self._name) as connection:
            process = connection.info.backend_pid
            with connection.transaction():
                connection.execute(f'SELECT 1 FROM {HEADS} WHERE "group" = %s FOR UPDATE', [group])
                os.kill(process, signal.SIGSTOP)
                try:
                    yield
                finally:
                    os.kill(process, signal.SIGCONT)

    @staticmethod
    def _fill(target: psycopg.Connection, name: str) -> None:
        """Put the rows of the database `name` in place of those of `target`."""
        with connect_postgresql(name) as source, target.transaction(), source.transaction():
            source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            for table in (HEADS, EVENTS):
                target.execute(f"DELETE FROM {table}")  # type: ignore[arg-type]
                rows = source.cursor().copy(f"COPY {table} TO STDOUT")  # type: ignore[arg-type]
                into = target.cursor().copy(f"COPY {table} FROM STDIN")  # type: ignore[arg-type]
                with rows as outgoing, into as incoming:
                    for row in outgoing:
                        incoming.write(row)
            target.execute(
                f"SELECT setval(pg_get_serial_sequence('{EVENTS}', 'id'), "
                f"greatest(nextval(pg_get_serial_sequence('{EVENTS}', 'id')), max(id), 0) "
                f"+ {KEYS_APART}) FROM {EVENTS}"
            )


def read_redis(client: Any) -> Log:
    """Return the events that a Redis has under the keys of the log."""
    log = {}
    for key in client.scan_iter(match=f"{PREFIX}:{{*}}:events", count=1000):
        group = key.decode().split("{")[1].split("}")[0]
        log[group] = [
            (int(entry.split(b"-")[0]), fields[b"d"].decode())
            for entry, fields in client.xrange(key)
        ]
    return log


def catch_up(primary: Valkey, replica: Valkey) -> None:
    """Return when the replica has everything that the primary has now."""
    with primary.client() as source, replica.client() as target:
        # A primary that was started again counts from 0; its replica does not, until it is linked.
        eventually(lambda: target.info("replication")["master_link_status"] == "up")
        written = source.info("replication")["master_repl_offset"]
        eventually(lambda: target.info("replication")["slave_repl_offset"] >= written)


def event_log_at(**where: Any) -> dict[str, Any]:
    """Return the setting `EVENT_LOG` for the Redis log under the keys that `read_redis()` reads."""
    return {"BACKEND": "sse_app.eventlog.RedisEventLog", "PREFIX": PREFIX, **where}


class RedisStore(Store):
    """A primary and its replica; a relay leads to one of them, as a virtual address does.

    The copy is the replica, cut off from its primary and promoted later: it lacks what came since.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(environment)
        self._folder = folder
        self._started = 0
        self.primary = self._start()
        self.replica = self._start(self.primary)
        self.relay = Cable(self.primary.port)
        port = self.relay.url.rpartition(":")[2]
        self.event_log = event_log_at(URL=f"redis://127.0.0.1:{port}/0")

    def _start(self, primary: Valkey | None = None) -> Valkey:
        self._started += 1
        follow = () if primary is None else ("--replicaof", f"127.0.0.1 {primary.port}")
        server = Valkey(self._folder / f"log-{self._started}", *DURABLE, *follow).start()
        if primary is not None:
            with server.client() as client:
                eventually(lambda: client.info("replication")["master_link_status"] == "up")
        return server

    def read(self) -> Log:
        with self.primary.client() as client:
            return read_redis(client)

    def _copy(self) -> None:
        catch_up(self.primary, self.replica)
        with self.replica.client() as client:
            client.replicaof("127.0.0.1", 1)  # Nobody listens there.

    @property
    def copied(self) -> dict[str, str]:
        with self.replica.client() as client:
            client.replicaof("NO", "ONE")
        return self.environment

    @property
    def copied_event_log(self) -> Any:
        return event_log_at(URL=self.replica.url)

    def _go_back(self) -> Log:
        with self.primary.client() as client:
            client.client_pause(60_000, all=False)
            abandoned = read_redis(client)
        self.primary.kill()
        with self.replica.client() as client:
            client.replicaof("NO", "ONE")
        self.primary = self.replica
        self.primary.options = DURABLE  # It follows nobody when it is started again.
        self.relay.lead_to(self.primary.port)
        return abandoned

    def _went_back(self) -> None:
        self.replica = self._start(self.primary)

    @property
    def servers(self) -> list[Valkey]:
        return [self.primary]

    @property
    def cables(self) -> list[Cable]:
        return [self.relay]

    def close(self) -> None:
        """End the servers and the relay."""
        self.relay.close()
        self.primary.kill()
        self.replica.kill()


@contextmanager
def open_store(log: str, folder: Path) -> Iterator[Store]:
    """Make an empty store for `log`, with its files in `folder`; end it afterwards."""
    with ExitStack() as stack:
        if log == "postgresql":
            from ..support import postgres  # noqa: F401 - importing it starts the server

            names = [stack.enter_context(empty_database()) for _ in range(2)]
            yield PostgresqlStore(*names)
        elif log == "redis":
            store = RedisStore(folder, SqliteStore(folder).environment)
            stack.callback(store.close)
            yield store
        else:
            yield SqliteStore(folder)
