"""A Redis log that hangs costs one wait; connections that are silent are replaced; replicas."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from sse_app import publish, publish_many
from sse_app.eventlog import (
    LogUnavailable,
    NotReplicated,
    PartlyStored,
    RedisEventLog,
    breaker,
    event_log,
    redis_clients,
)
from sse_app.protocol.cursors import START
from sse_app.protocol.events import Event
from sse_app.runtime.telemetry import COUNTS

from ..support.cables import Cable
from ..support.patience import PATIENCE
from ..support.servers import eventually
from ..support.valkeys import Valkey

QUICK = {"socket_timeout": 0.3, "socket_connect_timeout": 0.3}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey", "--repl-diskless-sync-delay", "0").start()
    yield server
    server.kill()


@pytest.fixture
def frozen(server: Valkey, monkeypatch: pytest.MonkeyPatch) -> Iterator[Valkey]:
    """A server that hangs from the test's first `freeze()` on."""
    monkeypatch.setattr(breaker, "PAUSE_SECONDS", 600)
    yield server
    thaw(server)


def freeze(server: Valkey) -> None:
    assert server.process
    server.process.send_signal(signal.SIGSTOP)


def thaw(server: Valkey) -> None:
    assert server.process
    server.process.send_signal(signal.SIGCONT)


def made(group: str, *data: str) -> list[Event]:
    return [Event.of(group, "n", text) for text in data]


class Sent:
    """Counts what the sync client sends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        real = redis.Connection.send_packed_command

        def counted(connection: Any, *args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return real(connection, *args, **kwargs)

        monkeypatch.setattr(redis.Connection, "send_packed_command", counted)


# --- the breaker ---


def test_after_a_call_without_an_answer_the_next_ones_are_not_sent(
    frozen: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RedisEventLog(frozen.url, options=QUICK)
    log.append(made("g", "1"))
    freeze(frozen)
    with pytest.raises(redis.TimeoutError):
        log.append(made("g", "2"))
    sent = Sent(monkeypatch)
    for call in (log.append, log.heads):
        with pytest.raises(LogUnavailable, match=r"did not answer at \d\d:\d\d:\d\d UTC.*another"):
            call(made("g", "3") if call == log.append else ["g"])
    assert sent.count == 0
    thaw(frozen)
    with pytest.raises(LogUnavailable):
        log.append(made("g", "4"))
    monkeypatch.setattr(breaker, "PAUSE_SECONDS", 0)
    log._clients._breaker._until = 0.0  # The pause is over.
    log.append(made("g", "5"))
    log.append(made("g", "6"))
    assert [event.data for event in log.since("g", START, 10)][-2:] == ["5", "6"]


async def test_an_event_loop_and_the_threads_have_one_breaker(frozen: Valkey) -> None:
    log = RedisEventLog(frozen.url, options=QUICK)
    await log.aappend(made("g", "1"))
    freeze(frozen)
    with pytest.raises(redis.TimeoutError):
        await log.aheads(["g"])
    with pytest.raises(LogUnavailable):
        log.append(made("g", "2"))
    with pytest.raises(LogUnavailable):
        await log.aappend(made("g", "3"))
    await log.aclose()


def test_one_call_is_let_through_at_the_end_of_a_pause(frozen: Valkey) -> None:
    log = RedisEventLog(frozen.url, options=QUICK)
    freeze(frozen)
    with pytest.raises(redis.TimeoutError):
        log.heads(["g"])
    log._clients._breaker._until = 0.0
    with pytest.raises(redis.TimeoutError):
        log.heads(["g"])
    with pytest.raises(LogUnavailable):
        log.heads(["g"])


def test_while_the_probe_has_no_answer_others_fail_at_once(frozen: Valkey) -> None:
    log = RedisEventLog(frozen.url, options=QUICK)
    freeze(frozen)
    with pytest.raises(redis.TimeoutError):
        log.heads(["g"])
    log._clients._breaker._until = 0.0
    with log._clients.guard(), pytest.raises(LogUnavailable):
        log.heads(["g"])


def test_an_error_and_a_refused_connection_are_answers(server: Valkey) -> None:
    log = RedisEventLog(server.url, options=QUICK)
    with server.client() as client:
        client.set(log._keys("g")[0], "another program's key")
    for _ in range(2):
        with pytest.raises(redis.ResponseError):
            log.append(made("g", "1"))
    server.kill()
    for _ in range(2):
        with pytest.raises(redis.ConnectionError, match="refused"):
            log.append(made("h", "1"))
    server.start()
    log.append(made("h", "1"))


# --- silent connections ---


def test_no_idle_connection_is_kept_when_one_is_silent(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "PAUSE_SECONDS", 0)
    cable = Cable(server.port)
    port = cable.url.rsplit(":", 1)[1]
    log = RedisEventLog(f"redis://127.0.0.1:{port}", options=QUICK)
    pool = log._clients.sync.connection_pool
    for connection in [pool.get_connection() for _ in range(3)]:
        pool.release(connection)
    cable.forget()
    with pytest.raises(redis.TimeoutError):
        log.append(made("g", "1"))
    # All three are connected again; the pool gives the last one that was used first.
    for connection in [pool.get_connection() for _ in range(3)]:
        connection.send_command("PING")
        assert connection.read_response() == b"PONG"
    cable.close()


async def test_a_loop_that_finds_a_silent_connection_closes_the_threads_ones_too(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "PAUSE_SECONDS", 0)
    cable = Cable(server.port)
    port = cable.url.rsplit(":", 1)[1]
    log = RedisEventLog(f"redis://127.0.0.1:{port}", options=QUICK)
    log.append(made("g", "1"))
    await log.aheads(["g"])
    cable.forget()
    with pytest.raises(redis.TimeoutError):
        await log.aheads(["g"])
    log.append(made("g", "2"))
    assert (await log.aheads(["g"]))["g"].offset == 2
    await log.aclose()
    cable.close()


def test_the_system_is_asked_to_find_silent_connections(server: Valkey) -> None:
    import socket

    log = RedisEventLog(server.url)
    log.heads(["g"])
    connection = log._clients.sync.connection_pool.get_connection()
    of = connection._sock.getsockopt
    assert of(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    idle, interval, count = (
        of(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{name}"))
        for name in ("IDLE", "INTVL", "CNT")
    )
    assert idle + interval * count <= 30
    assert connection.health_check_interval <= 30


def test_a_unix_socket_needs_no_keepalive() -> None:
    RedisEventLog("unix:///run/redis.sock")


# --- one append per transaction ---


@pytest.fixture
def on_redis(server: Valkey, settings: Any) -> Valkey:
    log = {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": server.url, "OPTIONS": QUICK}
    settings.SSE_APP = {"EVENT_LOG": log}
    return server


@pytest.fixture
def appends(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The data of the events of each append."""
    found: list[list[str]] = []
    real = RedisEventLog.append

    def noted(log: Any, events: Any) -> Any:
        found.append([event.data for event in events])
        return real(log, events)

    monkeypatch.setattr(RedisEventLog, "append", noted)
    return found


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("on_redis")
def test_the_publishes_of_a_transaction_are_one_append(
    appends: list[list[str]], seen: list[Event]
) -> None:
    with transaction.atomic():
        publish("a", "n", "0")
        for n in range(1, 100):
            with transaction.atomic():  # as a save that publishes has
                publish("ab"[n % 2], "n", str(n), durable=n % 10 != 5)
        transaction.on_commit(lambda: None)
    expected = [str(n) for n in range(100)]
    assert appends == [[text for text in expected if not text.endswith("5")]]
    assert [event.data for event in seen] == expected
    assert [event.offset for event in seen if event.group == "a"] == list(range(1, 51))


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("on_redis")
def test_what_a_savepoint_rolled_back_is_in_no_append(
    appends: list[list[str]], seen: list[Event]
) -> None:
    def undo(data: str) -> None:
        with suppress(ZeroDivisionError), transaction.atomic():
            publish("g", "n", data)
            raise ZeroDivisionError

    for last in ("", "kept"):
        with transaction.atomic():
            publish("g", "n", "1")
            undo("undone")
            publish("g", "n", "2")
            undo("undone too")
            if last:
                publish("g", "n", last)
    assert appends == [["1"], ["2"], ["1", "2", "kept"]]
    undo("undone")
    publish("g", "n", "3")
    assert [event.data for event in seen] == ["1", "2", "1", "2", "kept", "3"]


@pytest.mark.django_db(transaction=True)
def test_a_hundred_publishes_wait_once_for_a_log_that_hangs(
    on_redis: Valkey, frozen: Valkey, caplog: pytest.LogCaptureFixture, seen: list[Event]
) -> None:
    publish("g", "n", "warm")
    freeze(frozen)
    calls, lost = 0, COUNTS.lost
    real = redis_clients.RedisClients._run

    def counted(clients: Any, command: Any) -> Any:
        nonlocal calls
        calls += 1
        return real(clients, command)

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(redis_clients.RedisClients, "_run", counted)
        for _ in range(3):
            with transaction.atomic():
                for n in range(100):
                    publish("g", "n", str(n))
                publish("g", "n", "passing", durable=False)
    assert calls == 3
    assert COUNTS.lost - lost == 300
    lines = [record.getMessage() for record in caplog.records if "Lost" in record.getMessage()]
    assert lines == [
        "Lost 100 event(s) of a committed transaction: the event log did not take them."
    ]
    assert [event.data for event in seen] == ["warm", *["passing"] * 3]
    with pytest.raises(LogUnavailable):
        publish("g", "n", "at once, to the caller")


@pytest.mark.django_db(transaction=True)
def test_the_events_of_other_groups_are_stored_and_sent_when_one_group_fails(
    on_redis: Valkey, seen: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    with on_redis.client() as client:
        log = event_log()
        assert isinstance(log, RedisEventLog)
        client.set(log._keys("bad")[0], "another program's key")
    with pytest.raises(PartlyStored, match=r"events of bad; .*WRONGTYPE"):
        publish_many([("good", "n", "1"), ("bad", "n", "2"), ("good", "n", "3")])
    with transaction.atomic():
        for group in ("good", "bad", "good"):
            publish(group, "n", group)
    assert "2 of 3 event(s) were stored" in caplog.text
    assert [(event.data, event.offset) for event in seen] == [
        *(("1", 1), ("3", 2)),
        *(("good", 3), ("good", 4)),
    ]


# --- replicas ---


@pytest.fixture
def replica(server: Valkey, tmp_path: Path) -> Iterator[Valkey]:
    of = ("--replicaof", f"127.0.0.1 {server.port}")
    replica = Valkey(tmp_path / "replica", *of).start()
    with server.client() as client:
        eventually(lambda: client.execute_command("WAIT", 1, 100) == 1, "it is no replica")
    yield replica
    thaw(replica)
    replica.kill()


async def test_an_event_that_a_replica_confirmed_is_acknowledged(
    server: Valkey, replica: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_clients, "REPLICA_SECONDS", PATIENCE)
    log = RedisEventLog(server.url, wait_replicas=1, options={"socket_timeout": 2 * PATIENCE})
    with replica.client() as client:
        for n in range(10):
            log.append(made("g", str(n)))
            await log.aappend([*made("g", str(n)), *made("h", str(n))])
            assert client.xlen(log._keys("g")[1]) == 2 * n + 2
            assert client.xlen(log._keys("h")[1]) == n + 1
    await log.aclose()


@pytest.mark.parametrize("groups", [["g"], ["g", "h"]])
async def test_an_event_that_no_replica_confirmed_is_stored_and_the_publisher_is_told(
    server: Valkey, replica: Valkey, groups: list[str]
) -> None:
    freeze(replica)
    log = RedisEventLog(server.url, wait_replicas=1, options=QUICK)
    events = [event for group in groups for event in made(group, "1")]
    with pytest.raises(NotReplicated, match=r"stored in the log, but 0 of the 1 replicas") as told:
        log.append(events)
    assert [event.offset for event in told.value.stored] == [1] * len(groups)
    with pytest.raises(NotReplicated):
        await log.aappend(events)
    assert log.heads(["g"])["g"].offset == 2
    await log.aclose()


@pytest.mark.django_db(transaction=True)
def test_an_event_that_no_replica_confirmed_reaches_its_readers(
    server: Valkey, settings: Any, seen: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    log = {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": server.url, "WAIT_REPLICAS": 1}
    settings.SSE_APP = {"EVENT_LOG": {**log, "OPTIONS": QUICK}}
    with pytest.raises(NotReplicated):
        publish("g", "n", "1")
    with transaction.atomic():
        publish("g", "n", "2")
    assert [(event.data, event.offset) for event in seen] == [("1", 1), ("2", 2)]
    assert "1 of 1 event(s) were stored, but not as they should be" in caplog.text


@pytest.mark.parametrize("value", [-1, "1", True, 1.5, None])
def test_a_number_of_replicas_that_is_none_is_named(value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"WAIT_REPLICAS'\] is") as told:
        RedisEventLog(wait_replicas=value)
    assert repr(value) in str(told.value)


def test_a_cluster_can_not_wait_for_replicas() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"min-replicas-to-write"):
        RedisEventLog(cluster=True, wait_replicas=1)
