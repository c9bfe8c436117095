"""The Redis log on real servers: its options, Sentinel, TLS, expiry, and what it did not write."""

from __future__ import annotations

import asyncio
import multiprocessing
import ssl
import threading
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from sse_app.eventlog import Discontinuity, RedisEventLog, make_event_log, redis_clients
from sse_app.protocol.cursors import START, Position
from sse_app.protocol.events import Event

from ..support.certificates import make_certificate
from ..support.patience import PATIENCE
from ..support.servers import eventually
from ..support.valkeys import Valkey, free_port

PATH = "sse_app.eventlog.RedisEventLog"


@pytest.fixture
def log(valkey: str) -> RedisEventLog:
    return RedisEventLog(valkey, prefix=f"test.{uuid.uuid4().hex}")


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with closing(redis.Redis.from_url(valkey)) as client:
        yield client


def made(group: str, *data: str) -> list[Event]:
    return [Event.of(group, "n", text) for text in data]


def keys(log: RedisEventLog, group: str = "g") -> tuple[str, str]:
    return log._keys(group)


# --- what it writes ---


def test_an_append_to_many_groups_is_one_round_trip(
    log: RedisEventLog, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append(made("warm", "up"))
    sent = 0
    real = redis.Connection.send_packed_command

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal sent
        sent += 1
        return real(self, *args, **kwargs)

    monkeypatch.setattr(redis.Connection, "send_packed_command", counted)
    log.append([event for n in range(50) for event in made(f"g{n}", "1", "2")])
    assert sent == 1
    log.append(made("g", *map(str, range(100))))
    assert sent == 2
    log.heads([f"g{n}" for n in range(50)])
    assert sent == 3


def test_a_retained_group_never_expires_until_it_is_retained_no_longer(
    log: RedisEventLog, client: redis.Redis
) -> None:
    log.append(made("g", "1"))
    with override_settings(SSE_APP={"RETAIN": {"g": 1}}):
        log.append(made("g", "2"))
        assert [client.pttl(key) for key in keys(log)] == [-1, -1]
        log.prune()
        assert [client.pttl(key) for key in keys(log)] == [-1, -1]
    log.prune()
    assert all(int(client.pttl(key)) > 0 for key in keys(log))  # type: ignore[arg-type]
    client.persist(keys(log)[0])
    log.append(made("g", "3"))
    assert all(int(client.pttl(key)) > 0 for key in keys(log))  # type: ignore[arg-type]


def test_a_group_never_expires_while_events_are_kept_for_ever(
    log: RedisEventLog, client: redis.Redis
) -> None:
    log.append(made("g", "1"))
    with override_settings(SSE_APP={"RETENTION_SECONDS": None}):
        log.prune()
        assert [client.pttl(key) for key in keys(log)] == [-1, -1]
        log.append(made("g", "2"))
        assert [client.pttl(key) for key in keys(log)] == [-1, -1]
    log.prune()
    assert all(int(client.pttl(key)) > 0 for key in keys(log))  # type: ignore[arg-type]


def test_an_idle_group_expires_its_events_before_its_head(
    log: RedisEventLog, client: redis.Redis
) -> None:
    with override_settings(SSE_APP={"RETENTION_SECONDS": 100}):
        log.append(made("g", "1"))
    head, events = keys(log)
    assert 90_000 < int(client.pttl(events)) <= 100_000  # type: ignore[arg-type]
    assert 190_000 < int(client.pttl(head)) <= 200_000  # type: ignore[arg-type]


def test_an_append_trims_what_is_beyond_retention(log: RedisEventLog) -> None:
    with override_settings(SSE_APP={"RETENTION_EVENTS": 10}):
        log.append(made("g", *map(str, range(25))))
        epoch = log.heads(["g"])["g"].epoch
        assert log.earliest("g") == (epoch, 15, "")
        assert log.prune() == 0


def test_without_its_head_a_group_begins_anew(log: RedisEventLog, client: redis.Redis) -> None:
    (first,) = log.append(made("g", "1"))
    client.delete(keys(log)[0])  # evicted, say
    (second,) = log.append(made("g", "2"))
    assert second.offset == 1
    assert second.epoch != first.epoch
    assert log.since("g", START, 10) == [second]


def test_without_its_events_a_group_is_trimmed(log: RedisEventLog, client: redis.Redis) -> None:
    log.append(made("g", "1", "2"))
    client.delete(keys(log)[1])
    (third,) = log.append(made("g", "3"))
    assert third.offset == 3
    with pytest.raises(Discontinuity, match="trimmed"):
        log.since("g", START, 10)
    assert log.since("g", Position(third.epoch or "", 2), 10) == [third]


@pytest.mark.parametrize(
    "fields",
    [
        {"n": "n"},
        {"d": "x"},
        {"n": "two words", "d": "x"},
        {"n": "sse.open", "d": "x"},
        {"n": "n", "d": b"\xff"},
        {"n": "n", "d": "a\rb"},
        {"x": "y"},
    ],
)
def test_an_entry_that_is_no_event_is_never_shown(
    log: RedisEventLog, client: redis.Redis, fields: dict[str, Any]
) -> None:
    log.append(made("g", "1"))
    head, events = keys(log)
    client.xadd(events, fields, id="2-1")
    client.hset(head, "offset", "2")
    (third,) = log.append(made("g", "3"))
    assert [event.data for event in log.since("g", START, 10)] == ["1"]
    with pytest.raises(Discontinuity, match="trimmed"):
        log.since("g", Position(third.epoch or "", 1), 10)
    assert log.since("g", Position(third.epoch or "", 2), 10) == [third]


def test_a_lost_answer_is_not_asked_for_again(valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent a second time, the append would be stored twice, whatever the options say."""
    options = {"retry_on_timeout": True}
    log = RedisEventLog(valkey, prefix=f"test.{uuid.uuid4().hex}", options=options)
    log.append(made("g", "1"))
    real = redis.Connection.read_response

    def lost(self: redis.Connection, *args: Any, **kwargs: Any) -> Any:
        real(self, *args, **kwargs)
        monkeypatch.undo()  # Only this one.
        raise redis.ConnectionError("the answer was lost")

    monkeypatch.setattr(redis.Connection, "read_response", lost)
    with pytest.raises(redis.ConnectionError):
        log.append(made("g", "2"))
    assert [event.data for event in log.since("g", START, 10)] == ["1", "2"]


async def test_a_lost_answer_is_not_asked_for_again_on_an_event_loop(
    valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"retry_on_error": [redis.ConnectionError]}
    log = RedisEventLog(valkey, prefix=f"test.{uuid.uuid4().hex}", options=options)
    await log.aappend(made("g", "1"))
    real = redis.asyncio.Connection.read_response

    async def lost(self: redis.asyncio.Connection, *args: Any, **kwargs: Any) -> Any:
        await real(self, *args, **kwargs)
        monkeypatch.undo()  # Only this one.
        raise redis.ConnectionError("the answer was lost")

    monkeypatch.setattr(redis.asyncio.Connection, "read_response", lost)
    with pytest.raises(redis.ConnectionError):
        await log.aappend(made("g", "2"))
    assert [event.data for event in await log.asince("g", START, 10)] == ["1", "2"]
    await log.aclose()


async def test_each_event_loop_has_connections_of_its_own(log: RedisEventLog) -> None:
    await log.aappend(made("g", "1"))

    async def elsewhere() -> Any:
        await log.aappend(made("g", "2"))
        client = log._clients.of_loop
        await log.aclose()
        return client

    assert await asyncio.to_thread(asyncio.run, elsewhere()) is not log._clients.of_loop
    assert [event.data for event in await log.asince("g", START, 10)] == ["1", "2"]
    await log.aclose()


def connections(client: redis.Redis, name: str) -> int:
    return sum(each["name"] == name for each in client.client_list())


async def test_more_commands_than_connections_wait_for_one(
    client: redis.Redis, valkey: str
) -> None:
    name = f"test.{uuid.uuid4().hex}"
    log = RedisEventLog(f"{valkey}?client_name={name}", prefix=name)
    groups = [f"g{n}" for n in range(300)]
    await asyncio.gather(*(log.aappend(made(group, "1")) for group in groups))
    assert connections(client, name) == redis_clients.CONNECTIONS
    reads = await asyncio.gather(*(log.asince(group, START, 10) for group in groups))
    assert [len(events) for events in reads] == [1] * 300
    await log.aclose()
    eventually(lambda: connections(client, name) == 0)


@pytest.mark.parametrize("place", ["url", "options"])
async def test_fewer_connections_where_the_settings_allow_fewer(
    client: redis.Redis, valkey: str, place: str
) -> None:
    name = f"test.{uuid.uuid4().hex}"
    url = f"{valkey}?client_name={name}" + ("&max_connections=3" if place == "url" else "")
    options = {"max_connections": 3} if place == "options" else {}
    log = RedisEventLog(url, prefix=name, options=options)
    await asyncio.gather(*(log.aappend(made(f"g{n}", "1")) for n in range(20)))
    assert connections(client, name) == 3
    await log.aclose()


async def test_a_command_that_finds_no_connection_free_says_so_in_the_end(
    log: RedisEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_clients, "WAIT_SECONDS", 0.01)
    async with AsyncExitStack() as stack:
        for _ in range(redis_clients.CONNECTIONS):
            await stack.enter_async_context(log._clients.of_loop.borrow())
        with pytest.raises(redis.TimeoutError, match=r"was free within 0\.01 s"):
            await log.aheads(["g"])
    assert (await log.aheads(["g"]))["g"].is_start
    await log.aclose()


def test_more_threads_than_redis_py_allows_connections_append_at_once(
    log: RedisEventLog, client: redis.Redis
) -> None:
    threads = [threading.Thread(target=log.append, args=[made("g", str(n))]) for n in range(150)]
    client.client_pause(500)  # So that all of them wait for their answers together.
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.heads(["g"])["g"].offset == 150
    log._clients.sync.close()


async def test_commands_in_flight_keep_their_connections_when_the_log_is_closed(
    client: redis.Redis, valkey: str
) -> None:
    """The last stream closes the log, and others publish or ask on the same loop."""
    name = f"test.{uuid.uuid4().hex}"
    log = RedisEventLog(f"{valkey}?client_name={name}", prefix=name)
    for turns in range(30):
        append = asyncio.create_task(log.aappend(made("g", str(turns))))
        for _ in range(turns):
            await asyncio.sleep(0)
        await log.aclose()
        assert [event.offset for event in await append] == [turns + 1]
    await log.aclose()
    eventually(lambda: connections(client, name) == 0, "a client was never closed")


def test_a_log_that_vanished_has_another_mark(log: RedisEventLog, client: redis.Redis) -> None:
    """A reader that saw the group empty then learns that events may be gone."""
    start = log.heads(["g"])["g"]
    assert start == log.heads(["h"])["h"]
    assert log.since("g", start, 10) == []
    client.flushdb()
    assert not log.heads(["g"])["g"].agrees(start)
    with pytest.raises(Discontinuity, match="epoch"):
        log.since("g", start, 10)
    (event,) = log.append(made("g", "1"))
    assert event.previous not in ("", start.mark), "a reader that is open learns of it, too"
    with pytest.raises(Discontinuity, match="epoch"):
        log.since("g", start, 10)
    assert log.since("g", log.heads(["h"])["h"], 10) == [event]


def test_an_older_version_appends_to_the_same_log(log: RedisEventLog, client: redis.Redis) -> None:
    """As its script did: a rolling update runs both."""
    (first,) = log.append(made("g", "1"))
    head, events = keys(log)
    client.xadd(events, {"n": "n", "d": "2"}, id="2-0")
    client.hset(head, "offset", 2)
    assert log.heads(["g"]) == {"g": Position(first.epoch or "", 2, "")}
    (third,) = log.append(made("g", "3"))
    assert third.previous == ""
    assert first.position is not None
    assert [event.data for event in log.since("g", first.position, 10)] == ["2", "3"]
    assert log.since("g", Position(first.epoch or "", 2), 10) == [third]
    with pytest.raises(Discontinuity, match="epoch"):
        log.since("g", first.position._replace(offset=3), 10)


async def test_a_server_that_does_not_know_the_scripts_gets_them(
    log: RedisEventLog, client: redis.Redis
) -> None:
    """As after a restart: the app sends the names of scripts."""
    for n in range(1, 4):
        client.script_flush()
        assert log.append(made("g", str(n)))[0].offset == 2 * n - 1
        client.script_flush()
        assert (await log.aappend(made("g", str(n))))[0].offset == 2 * n
    assert len(log.since("g", START, 10)) == 6
    assert len(await log.asince("g", START, 10)) == 6
    await log.aclose()


# --- how it is reached ---


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"URL": "http://localhost"}, "http://localhost"),
        ({"URL": 5}, "5"),
        ({"PREFIX": "a b"}, "'a b'"),
        ({"PREFIX": "{x}"}, "'{x}'"),
        ({"SENTINELS": [("127.0.0.1", 26379)]}, "SERVICE_NAME"),
        ({"SERVICE_NAME": "mymaster"}, "SENTINELS"),
        ({"SENTINELS": [("h", 1)], "SERVICE_NAME": "m", "CLUSTER": True}, "CLUSTER"),
        ({"OPTIONS": {"no_such_option": 1}}, "no_such_option"),
        ({"NO_SUCH": 1}, "no_such"),
    ],
)
def test_options_that_can_not_be_meant_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="EVENT_LOG") as caught:
        make_event_log({"BACKEND": PATH, **options})
    assert named in str(caught.value)


def test_a_password_in_the_url_is_not_shown() -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        make_event_log({"BACKEND": PATH, "URL": "nonsense://user:secret@localhost"})
    assert "secret" not in str(caught.value)
    assert "nonsense://localhost" in str(caught.value)


def test_nothing_connects_before_it_is_needed() -> None:
    port = free_port()
    make_event_log({"BACKEND": PATH, "URL": f"redis://127.0.0.1:{port}"})
    make_event_log({"BACKEND": PATH, "URL": f"redis://127.0.0.1:{port}", "CLUSTER": True})


def test_a_restarted_server_is_found_again(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = Valkey(tmp_path, "--appendonly", "yes", "--appendfsync", "always").start()
        stack.callback(server.kill)
        log = RedisEventLog(server.url)
        log.append(made("g", "1"))
        server.kill()
        with pytest.raises(redis.ConnectionError):
            log.append(made("g", "not stored"))
        server.start()
        log.append(made("g", "2"))
        assert [event.data for event in log.since("g", START, 10)] == ["1", "2"]


def test_a_forked_process_has_connections_of_its_own(log: RedisEventLog) -> None:
    log.append(made("g", "before"))
    child = multiprocessing.get_context("fork").Process(
        target=lambda: log.append(made("g", "by the child"))
    )
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0
    log.append(made("g", "after"))
    texts = [event.data for event in log.since("g", START, 10)]
    assert texts == ["before", "by the child", "after"]


@pytest.mark.slow
def test_sentinel_names_the_primary_and_its_successor(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = Valkey(tmp_path / "first").start()
        stack.callback(first.kill)
        replica_of = ("--replicaof", f"127.0.0.1 {first.port}", "--replica-priority", "1")
        second = Valkey(tmp_path / "second", *replica_of).start()
        stack.callback(second.kill)
        watcher = Valkey(tmp_path / "sentinel", str(_sentinel(tmp_path, first)), "--sentinel")
        stack.callback(watcher.start().kill)
        sentinels = [("127.0.0.1", watcher.port)]
        log = RedisEventLog(sentinels=sentinels, service_name="events")
        placed = log.append(made("g", "1"))
        with second.client() as client:
            eventually(lambda: client.xlen(keys(log)[1]) == 1, "it was not replicated")
        eventually(lambda: _knows_replica(watcher), "the sentinel knows no replica")
        first.kill()

        def append() -> list[Event]:
            try:
                return log.append(made("g", "2"))
            except redis.RedisError:
                return []

        placed += eventually(append, "no successor was named")
        assert log.since("g", START, 10) == placed

        async def read() -> list[Event]:
            try:
                return await log.asince("g", START, 10)
            finally:
                await log.aclose()

        assert asyncio.run(read()) == placed


def _sentinel(folder: Path, primary: Valkey) -> Path:
    configuration = folder / "sentinel.conf"
    configuration.write_text(
        f"sentinel monitor events 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds events 300\n"
        "sentinel failover-timeout events 2000\n"
    )
    return configuration


def _knows_replica(watcher: Valkey) -> bool:
    with watcher.client() as client:
        return bool(client.execute_command("SENTINEL", "REPLICAS", "events"))


def test_tls_by_the_ordinary_url_and_options(tmp_path: Path, valkey: str) -> None:
    certificate, key = make_certificate(tmp_path)
    with _tls_in_front_of(valkey, certificate, key) as port:
        setting = {
            "BACKEND": PATH,
            "URL": f"rediss://127.0.0.1:{port}",
            "PREFIX": f"test.{uuid.uuid4().hex}",
            "OPTIONS": {"ssl_ca_certs": str(certificate)},
        }
        log = make_event_log(setting)
        placed = log.append(made("g", "1"))

        async def read() -> list[Event]:
            try:
                return await log.asince("g", START, 10)
            finally:
                await log.aclose()

        assert asyncio.run(read()) == placed
        with pytest.raises(redis.ConnectionError, match="certificate"):
            make_event_log({**setting, "OPTIONS": {}}).heads(["g"])


class _tls_in_front_of:
    """A relay that ends TLS, since the server at hand was built without it."""

    def __init__(self, url: str, certificate: Path, key: Path) -> None:
        self._target = int(url.rsplit(":", 1)[1].split("/")[0])
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> int:
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        serving = asyncio.run_coroutine_threadsafe(self._serve(), self._loop)
        return serving.result(PATIENCE)

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> int:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0, ssl=self._context)
        return int(self._server.sockets[0].getsockname()[1])

    async def _stop(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            await asyncio.gather(_copy(reader, downstream), _copy(upstream, writer))
        finally:
            downstream.close()
            writer.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while chunk := await source.read(65536):
        target.write(chunk)
        await target.drain()
    target.close()
