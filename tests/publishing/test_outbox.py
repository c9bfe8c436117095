"""Sending on the channel layer from anywhere: one loop, one connection, whatever forks or hangs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import pytest
from channels.layers import InMemoryChannelLayer, channel_layers
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

from sse_app import publish, publish_many
from sse_app.conf import channel_layer, site_tag
from sse_app.protocol.events import Event
from sse_app.protocol.groups import layer_group, shared_group
from sse_app.publishing import outbox as layer
from sse_app.runtime import layer_calls

from ..support.patience import PATIENCE
from ..support.servers import ROOT, Daphne, eventually

LAYERS = [RedisPubSubChannelLayer, RedisChannelLayer]
PRELUDE = """
import asyncio, multiprocessing, os, sys, threading
import django, redis
django.setup()
from django.db import transaction
from sse_app.publishing import outbox as layer; from sse_app import publish
server = redis.Redis.from_url(os.environ["REDIS_URL"])
def connections():
    return server.info("stats")["total_connections_received"]
before = connections()
"""


class Listener:
    """A member of the group `g` on a channel layer of its own; notes what arrives."""

    def __init__(self, kind: Any, url: str) -> None:
        self._layer = kind(hosts=[url])
        self.seen: list[str] = []

    async def start(self) -> Listener:
        self._channel = await self._layer.new_channel()
        await self._layer.group_add(layer_group("g", site_tag()), self._channel)
        return self

    async def until(self, count: int) -> list[str]:
        while len(self.seen) < count:
            message = await asyncio.wait_for(self._layer.receive(self._channel), PATIENCE)
            self.seen += [part["data"] for part in message.get("events", [message])]
        return self.seen


class Scripts:
    """Runs Python code in processes of its own that know nothing of ASGI."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
            "REDIS_URL": redis_url,
            "SSE_EVENT_LOG": "",
            "TEST_SSE_APP": json.dumps({"EVENT_LOG": "sse_app.eventlog.MemoryEventLog"}),
        }

    def on(self, kind: type) -> Scripts:
        self.environment["TEST_LAYER"] = f"{kind.__module__}.{kind.__qualname__}"
        return self

    async def run(self, code: str) -> Any:
        """Run `code` after the prelude to its end; return what it printed, read as JSON."""
        return await asyncio.to_thread(self._run, PRELUDE + dedent(code))

    def _run(self, code: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "null")


@pytest.fixture
def scripts(tmp_path: Path, valkey: str) -> Scripts:
    return Scripts(tmp_path, valkey)


def numbers(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{n}" for n in range(count)]


# --- one connection ---


@pytest.mark.parametrize("kind", LAYERS)
async def test_two_hundred_publishes_from_sync_code_use_one_connection(
    scripts: Scripts, valkey: str, kind: type
) -> None:
    listener = await Listener(kind, valkey).start()
    code = """
    for n in range(200):
        publish("g", "n", str(n))
    assert layer.flush()
    print(connections() - before)
    """
    assert await scripts.on(kind).run(code) == 1
    assert await listener.until(200) == numbers(200)


async def test_threads_share_the_connection(scripts: Scripts, valkey: str) -> None:
    listener = await Listener(RedisPubSubChannelLayer, valkey).start()
    code = """
    def work(name):
        for n in range(20):
            publish("g", "n", f"{name} {n}")
    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert layer.flush()
    print(connections() - before)
    """
    assert await scripts.run(code) == 1
    seen = await listener.until(160)
    for name in range(8):
        mine = [data for data in seen if data.startswith(f"{name} ")]
        assert mine == numbers(20, f"{name} ")


async def test_nothing_runs_or_connects_at_import(scripts: Scripts) -> None:
    code = """
    import importlib, pkgutil, sse_app
    for module in pkgutil.walk_packages(sse_app.__path__, "sse_app."):
        if ".migrations." not in module.name:
            importlib.import_module(module.name)
    print([connections() - before, threading.active_count()])
    """
    assert await scripts.run(code) == [0, 1]


# --- forks ---


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(0)"])
async def test_after_a_fork_parent_and_child_deliver_by_a_connection_each(
    scripts: Scripts, valkey: str, kind: type, end: str
) -> None:
    listener = await Listener(kind, valkey).start()
    code = f"""
    for n in range(50):
        publish("g", "n", f"before {{n}}")
    assert layer.flush()
    child = os.fork()
    name = "parent" if child else "child"
    for n in range(50):
        publish("g", "n", f"{{name}} {{n}}")
    assert layer.flush()
    if not child:
        {end}
    assert os.waitpid(child, 0)[1] == 0
    # What the child did at its end must not have touched the connection of the parent.
    publish("g", "n", "last")
    assert layer.flush()
    print(connections() - before)
    """
    assert await scripts.on(kind).run(code) == 2
    seen = await listener.until(151)
    assert seen[:50] == numbers(50, "before ")
    for name in ("parent", "child"):
        mine = [data for data in seen if data.startswith(name)]
        assert mine == numbers(50, f"{name} ")
    assert seen[-1] == "last"


async def test_a_fork_while_much_waits_delivers_each_event_once(
    scripts: Scripts, valkey: str
) -> None:
    listener = await Listener(RedisPubSubChannelLayer, valkey).start()
    code = """
    async def publish_without_waiting():
        for n in range(500):
            publish("g", "n", str(n))
        return os.fork()
    child = asyncio.run(publish_without_waiting())
    if not child:
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
    assert layer.flush()
    publish("g", "n", "last")
    """
    await scripts.run(code)
    assert await listener.until(501) == [*numbers(500), "last"]


async def test_a_child_of_a_process_that_serves_streams_publishes_by_itself(
    scripts: Scripts, valkey: str
) -> None:
    listener = await Listener(RedisPubSubChannelLayer, valkey).start()
    code = """
    from sse_app.delivery.hub import get_hub
    async def serve():
        hub = get_hub()
        child = os.fork()
        if not child:
            publish("g", "n", "child", durable=False)
            os._exit(0 if layer.flush() else 1)
        # The loop of the parent stands still until the child has ended.
        assert os.waitpid(child, 0)[1] == 0
        await hub.close()
    asyncio.run(serve())
    """
    await scripts.run(code)
    assert await listener.until(1) == ["child"]


# --- the end of a process ---


@pytest.mark.parametrize("end", ["", "sys.exit()", "os._exit(0)"])
async def test_a_command_that_publishes_once_and_ends_delivers(
    scripts: Scripts, valkey: str, end: str
) -> None:
    listener = await Listener(RedisPubSubChannelLayer, valkey).start()
    # By name: once an interpreter has begun to end, asyncio can't look up names any more.
    scripts.environment["REDIS_URL"] = valkey.replace("127.0.0.1", "localhost")
    await scripts.run(f"publish('g', 'n', 'x')\n{end}")
    assert await listener.until(1) == ["x"]


async def test_what_waits_when_a_process_ends_is_sent(scripts: Scripts, valkey: str) -> None:
    listener = await Listener(RedisPubSubChannelLayer, valkey).start()
    code = """
    for n in range(5):
        publish("g", "n", str(n))
    """
    await scripts.run(code)
    assert await listener.until(5) == numbers(5)


async def test_async_code_that_publishes_and_ends_delivers(scripts: Scripts, valkey: str) -> None:
    listener = await Listener(RedisPubSubChannelLayer, valkey).start()
    code = """
    async def main():
        for n in range(5):
            publish("g", "n", str(n))
    asyncio.run(main())
    """
    await scripts.run(code)
    assert await listener.until(5) == numbers(5)


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_what_waits_when_a_child_of_multiprocessing_ends_is_sent(
    scripts: Scripts, valkey: str, method: str
) -> None:
    listener = await Listener(RedisPubSubChannelLayer, valkey).start()
    code = f"""
    from tests.publishing.test_outbox import publish_five
    publish("g", "n", "parent")
    child = multiprocessing.get_context({method!r}).Process(target=publish_five)
    child.start()
    child.join()
    assert child.exitcode == 0
    """
    await scripts.run(code)
    assert await listener.until(6) == ["parent", *numbers(5)]


def publish_five() -> None:
    """What a child of multiprocessing does."""
    import django

    django.setup()
    for n in range(5):
        publish("g", "n", str(n))


async def test_a_channel_layer_that_hangs_does_not_keep_a_process_from_ending(
    scripts: Scripts,
) -> None:
    scripts.environment["TEST_LAYER"] = "tests.publishing.test_outbox.HangingLayer"
    await scripts.run("layer.SEND_SECONDS = 0.1\nfor n in range(5): publish('g', 'n', str(n))")


# --- servers and workers without ASGI ---

WSGI = """
import os
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from django.core.wsgi import get_wsgi_application

class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64

server = Server(("127.0.0.1", 0), WSGIRequestHandler)
server.set_app(get_wsgi_application())
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def wsgi(scripts: Scripts, make_daphne: Callable[..., Daphne]) -> Iterator[tuple[Daphne, str]]:
    """A Daphne, and the address of a threaded WSGI server with the same database and Redis."""
    redis_url = scripts.environment["REDIS_URL"]
    daphne = make_daphne({"REDIS_URL": redis_url}, CHECK_INTERVAL=600, SWEEP_INTERVAL=600)
    environment = {**daphne.environment, "REDIS_URL": f"{redis_url}?client_name=wsgi"}
    with subprocess.Popen(
        [sys.executable, "-c", WSGI],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            yield daphne, f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


async def test_views_under_a_threaded_wsgi_server_deliver_by_one_connection(
    wsgi: tuple[Daphne, str], valkey: str
) -> None:
    import redis

    daphne, address = wsgi
    async with daphne.stream("group=orders") as stream, httpx.AsyncClient() as client:
        await stream.next()

        async def post(n: int) -> None:
            form = {"group": "orders", "event": "n", "data": str(n)}
            # Not durable: only the channel layer can bring it.
            answer = await client.post(f"{address}/test/publish-passing/", data=form)
            assert answer.status_code == 200

        await post(0)
        assert (await stream.next()).data == "0"
        await asyncio.gather(*map(post, range(1, 20)))
        assert {event.data for event in await stream.take(19)} == set(numbers(20)[1:])
    with redis.Redis.from_url(valkey) as server:
        clients = server.client_list()
    assert sum(client["name"] == "wsgi" for client in clients) == 1


async def test_prefork_workers_that_publish_in_transactions_deliver_everything(
    scripts: Scripts, valkey: str
) -> None:
    """As Celery does: the parent has published, its children take jobs and end by os._exit()."""
    scripts.environment["TEST_SSE_APP"] = "{}"
    listener = await Listener(RedisPubSubChannelLayer, valkey).start()
    code = """
    from django.core.management import call_command
    from django.db import connections as databases
    call_command("migrate", verbosity=0)
    publish("g", "n", "parent")
    databases.close_all()
    jobs, feed = os.pipe()

    def work():
        while job := os.read(jobs, 1):
            with transaction.atomic():
                publish("g", "n", f"{job.decode()} a")
                publish("g", "n", f"{job.decode()} b")
        # What a worker can do that ends in a way nothing can hook into.
        os._exit(0 if layer.flush() else 1)

    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            os.close(feed)
            work()
        children.append(child)
    os.write(feed, b"0123456789")
    os.close(feed)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    publish("g", "n", "parent again")
    """
    await scripts.run(code)
    seen = await listener.until(22)
    assert (seen[0], seen[-1]) == ("parent", "parent again")
    assert sorted(seen[1:-1]) == sorted(f"{n} {part}" for n in range(10) for part in "ab")


# --- a layer that fails or hangs ---


class HangingLayer(InMemoryChannelLayer):  # type: ignore[misc]  # channels has no types
    """Takes nothing until `gate` is set; notes what it took then."""

    gate: asyncio.Event | None = None
    taken: list[str] = []

    def __init__(self, **config: Any) -> None:
        super().__init__()

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        cls = type(self)
        if cls.gate is None:
            cls.gate = asyncio.Event()
        await cls.gate.wait()
        events = message.get("events") or [Event.from_message(message)]
        cls.taken += [event.data for event in events]


class RaisingLayer(InMemoryChannelLayer):  # type: ignore[misc]  # channels has no types
    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        raise ConnectionError("the layer is away")


@pytest.fixture
def fresh(settings: Any) -> Iterator[Callable[[str], None]]:
    """Begin as in a new process, with the channel layer that a test names."""
    settings.SSE_APP = {"EVENT_LOG": "sse_app.eventlog.MemoryEventLog"}
    layer._reset_after_fork()

    def use(name: str) -> None:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"tests.publishing.test_outbox.{name}"}}

    HangingLayer.gate, HangingLayer.taken = None, []
    yield use
    if layer._background is not None:
        if HangingLayer.gate is not None:
            open_gate()
        layer.flush(PATIENCE)
        loop = layer._background.loop
        loop.call_soon_threadsafe(loop.stop)
    layer._reset_after_fork()
    channel_layers.backends.clear()


@pytest.fixture
def vain_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The timeouts of the waits for the layer that ended without it; they are cut short."""
    waits: list[float] = []
    wait_for = threading.Condition.wait_for

    def counted(self: Any, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        found = wait_for(self, predicate, None if timeout is None else min(timeout, 0.05))
        if not found:
            assert timeout is not None
            waits.append(timeout)
        return found

    monkeypatch.setattr(threading.Condition, "wait_for", counted)
    return waits


def open_gate() -> None:
    gate = eventually(lambda: HangingLayer.gate)
    assert layer._background is not None
    layer._background.loop.call_soon_threadsafe(gate.set)


def close_gate() -> None:
    assert HangingLayer.gate is not None
    HangingLayer.gate.clear()


def publish_numbers(count: int, start: int = 0) -> None:
    for first in range(start, start + count, 100):
        publish_many([("g", "n", str(n)) for n in range(first, first + 100)], durable=False)


def test_a_layer_that_hangs_from_the_start_costs_one_wait_and_bounded_memory(
    fresh: Callable[[str], None], vain_waits: list[float]
) -> None:
    fresh("HangingLayer")
    publish_numbers(30_000)
    assert vain_waits == [layer.SEND_SECONDS]
    assert layer._background is not None
    assert len(layer._background._waiting) == layer.WAITING_EVENTS
    assert HangingLayer.taken == []


def test_a_layer_that_hangs_for_a_while_costs_one_wait_each_time(
    fresh: Callable[[str], None], vain_waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh("HangingLayer")
    publish("g", "n", "first", durable=False)
    open_gate()
    eventually(lambda: HangingLayer.taken == ["first"])
    close_gate()
    vain_waits.clear()
    publish_numbers(layer.ROOM_EVENTS)
    assert vain_waits == []
    publish_numbers(2_000, start=layer.ROOM_EVENTS)
    assert vain_waits == [layer.SEND_SECONDS]
    open_gate()
    eventually(lambda: HangingLayer.taken[-1] == "2999")
    assert HangingLayer.taken == ["first", *numbers(3_000)]
    close_gate()
    publish_numbers(3_000)
    assert vain_waits == [layer.SEND_SECONDS] * 2


def test_a_publisher_that_is_quicker_than_the_layer_waits_and_loses_nothing(
    fresh: Callable[[str], None],
) -> None:
    fresh("HangingLayer")
    published = threading.Event()

    def work() -> None:
        publish_numbers(3 * layer.WAITING_EVENTS)
        published.set()

    thread = threading.Thread(target=work)
    thread.start()
    open_gate()
    thread.join(PATIENCE)
    assert published.is_set()
    assert layer.flush(PATIENCE)
    assert HangingLayer.taken == numbers(3 * layer.WAITING_EVENTS)


async def test_nobody_waits_in_an_event_loop(
    fresh: Callable[[str], None], vain_waits: list[float]
) -> None:
    fresh("HangingLayer")
    publish_numbers(5_000)
    assert vain_waits == []


@pytest.mark.parametrize("name", ["RaisingLayer", "NoSuchLayer"])
def test_what_fails_in_the_layer_reaches_no_publisher(
    fresh: Callable[[str], None], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    fresh(name)
    logger = logging.getLogger("sse_app")
    logger.addHandler(caplog.handler)
    try:
        assert publish("g", "n", "x").offset == 1
        assert [event.offset for event in publish_many([("g", "n", "y"), ("h", "n", "z")])] == [
            2,
            1,
        ]
        assert layer.flush(PATIENCE)
    finally:
        logger.removeHandler(caplog.handler)
    assert "did not take the events of 1 group(s)" in caplog.text


def test_a_loop_that_has_closed_meanwhile_reaches_no_publisher() -> None:
    loop = asyncio.new_event_loop()
    outbox = layer.Outbox(loop, connected=True)
    loop.close()
    outbox.put([Event.of("g", "n", "x")])
    assert outbox.flush(0)


async def test_a_sender_that_was_cancelled_with_its_loop_sends_again() -> None:
    outbox = layer.Outbox(asyncio.get_running_loop(), connected=True)
    for _ in range(2):
        outbox.put([Event.of("g", "n", "x")] * (layer.BATCH_EVENTS + 1))
        outbox._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outbox._task
        # Cancelled before its first step, a task runs no line of its own.
    outbox.put([Event.of("g", "n", "x")])
    assert await asyncio.to_thread(outbox.flush, PATIENCE)


@pytest.fixture
async def receive() -> Callable[[], Awaitable[list[str]]]:
    """Return a function that returns the data of the events in the next message."""
    target: Any = channel_layer()
    channel = await target.new_channel()
    await target.group_add(shared_group(site_tag()), channel)

    async def received() -> list[str]:
        message = await target.receive(channel)
        return [event.data for event in message["events"]]

    return received


async def test_on_the_layer_in_memory_an_event_needs_no_task(
    receive: Callable[[], Awaitable[list[str]]],
) -> None:
    loop = asyncio.get_running_loop()
    outbox = layer.Outbox(loop, connected=True)
    tasks: list[Any] = []

    def note(loop: Any, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        tasks.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **kwargs)

    loop.set_task_factory(note)
    outbox.put([Event.of("g", "n", "x")])
    assert await receive() == ["x"]
    assert outbox.flush(0)
    assert tasks == []
    # More than one message can hold are sent by one task, which does not wait for others.
    outbox.put([Event.of("g", "n", "y")] * (layer.BATCH_EVENTS + 1))
    assert [len(await receive()) for _ in range(2)] == [layer.BATCH_EVENTS, 1]
    assert len(tasks) == 1


async def test_what_a_signal_handler_publishes_during_a_send_is_sent_too(
    receive: Callable[[], Awaitable[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = layer.Outbox(asyncio.get_running_loop(), connected=True)
    put = layer_calls.put

    def interrupted(*args: Any) -> bool:
        monkeypatch.setattr(layer_calls, "put", put)
        outbox.put([Event.of("g", "n", "from the handler")])
        return put(*args)

    monkeypatch.setattr(layer_calls, "put", interrupted)
    outbox.put([Event.of("g", "n", "x")])
    assert await receive() == ["x"]
    assert await receive() == ["from the handler"]


async def test_a_full_channel_of_the_layer_in_memory_loses_the_message_and_no_other(
    receive: Callable[[], Awaitable[list[str]]],
) -> None:
    target: Any = channel_layer()
    channel = await target.new_channel()
    await target.group_add(shared_group(site_tag()), channel)
    for _ in range(target.capacity):
        await target.send(channel, {"type": "full"})
    layer.Outbox(asyncio.get_running_loop(), connected=True).put([Event.of("g", "n", "x")])
    assert await receive() == ["x"]


def test_a_signal_handler_may_publish_while_its_thread_publishes(
    fresh: Callable[[str], None], vain_waits: list[float]
) -> None:
    fresh("HangingLayer")

    def handler(*args: Any) -> None:
        publish("g", "n", "from the handler", durable=False)

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        publish("g", "n", "first", durable=False)
        assert layer._background is not None
        with layer._background._progress:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    open_gate()
    eventually(layer.flush)  # Each wait is cut short here.
    assert HangingLayer.taken == ["first", "from the handler"]
