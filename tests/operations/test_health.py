"""`GET health/`: what a load balancer is told."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connections
from django.test import AsyncClient

from sse_app.delivery.hub import Hub
from sse_app.operations import health

from ..support.other_servers import Gunicorn
from ..support.patience import PATIENCE
from ..support.servers import Daphne, Server, connect_postgresql, eventually
from ..support.sleepers import run
from ..support.valkeys import Valkey

FINE = {"ready": True, "log": "ok", "layer": "ok"}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    server.start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_kept", None)


def ask(daphne: Server, expected: int) -> dict[str, object]:
    answer = httpx.get(f"{daphne.url}/events/health/", timeout=PATIENCE)
    assert answer.status_code == expected, answer.text
    assert answer.headers["cache-control"] == "no-store, private"
    found: dict[str, object] = answer.json()
    return found


def test_a_process_whose_log_and_layer_answer_is_ready(daphne: Daphne) -> None:
    assert ask(daphne, 200) == FINE
    assert httpx.head(f"{daphne.url}/events/health/").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("what", ["layer", "log"])
def test_one_that_lost_its_redis_is_not_and_is_again(
    make_daphne: Callable[..., Daphne], redis: Valkey, what: str
) -> None:
    log = {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": redis.url}
    options = {"EVENT_LOG": log} if what == "log" else {}
    daphne = make_daphne({} if options else {"REDIS_URL": redis.url}, **options)
    assert ask(daphne, 200) == FINE
    redis.kill()
    found = lasting(daphne, 503)
    assert found == {**FINE, "ready": False, what: found[what]}
    assert found[what] in ("ConnectionError", "timeout")
    redis.start()
    assert lasting(daphne, 200) == FINE


@pytest.mark.slow
def test_probing_leaves_nothing_behind(make_daphne: Callable[..., Daphne], redis: Valkey) -> None:
    daphne = make_daphne({"REDIS_URL": redis.url})
    run(daphne, "from sse_app.operations import health\nhealth.KEPT_SECONDS = -1\nresult = None")
    for _ in range(5):
        assert ask(daphne, 200) == FINE
    left = (
        "from channels.layers import get_channel_layer\n"
        "result = sum(len(of.channels) for of in get_channel_layer()._layers.values())"
    )
    assert run(daphne, left) == 0
    with redis.client() as client:
        assert client.pubsub_channels() == []


@pytest.mark.slow
def test_one_whose_redis_hangs_is_told_in_time(
    make_daphne: Callable[..., Daphne], redis: Valkey
) -> None:
    daphne = make_daphne({"REDIS_URL": redis.url})
    assert ask(daphne, 200) == FINE
    assert redis.process
    redis.process.send_signal(signal.SIGSTOP)
    try:
        assert lasting(daphne, 503)["layer"] == "timeout"
    finally:
        redis.process.send_signal(signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Gunicorn, Daphne])
def test_a_database_that_hangs_is_told_while_it_hangs(
    kind: type[Server], make_server: Callable[..., Any], database: str
) -> None:
    server = make_server(kind, {"TEST_POSTGRES_NAME": database})
    assert ask(server, 200) == FINE
    with connect_postgresql(database) as session, session.transaction():
        session.execute("LOCK TABLE sse_app_grouphead IN ACCESS EXCLUSIVE MODE")
        for _ in range(2):  # The second probe finds the first one's thread still waiting.
            assert lasting(server, 503) == {**FINE, "ready": False, "log": "timeout"}
    assert lasting(server, 200) == FINE


def test_calls_that_hang_elsewhere_are_not_taken_for_the_log(daphne: Daphne) -> None:
    assert ask(daphne, 200) == FINE
    run(daphne, OCCUPYING)
    for _ in range(3):
        assert ask(daphne, 200) == FINE


OCCUPYING = """
import threading
from sse_app.operations import health, processes
from sse_app.runtime.callables import in_thread
from sse_app.runtime.services import spawn
from sse_app.runtime.threads import CALLS_AT_ONCE
health.KEPT_SECONDS = -1
began = threading.Event()

def hang():
    began.set()
    threading.Event().wait()

for _ in range(CALLS_AT_ONCE):
    processes.reporter.loop.call_soon_threadsafe(spawn, in_thread, hang)
    began.wait()
    began.clear()
"""


async def test_a_hub_that_hangs_is_told_although_the_log_answers(daphne: Daphne) -> None:
    run(daphne, "from sse_app.operations import health\nhealth.KEPT_SECONDS = -1")
    async with daphne.stream("group=orders") as stream:
        await stream.next()
        fine = ask(daphne, 200)
        assert float(str(fine.pop("hub_checked"))) >= 0
        assert fine == {**FINE, "hub": "ok"}
        checked_at = run(daphne, CHECKED_AT)
        eventually(lambda: run(daphne, CHECKED_AT) > checked_at, "no check is noted")
        run(daphne, HANGING)
        late = lasting(daphne, 503)
        assert float(str(late.pop("hub_checked"))) > 0
        assert late == {**FINE, "ready": False, "hub": "timeout"}


CHECKED_AT = """
from sse_app.delivery.hub import running_hubs
(result,) = [hub.checked_at for hub in running_hubs()]
"""
HANGING = """
import asyncio
from sse_app.eventlog import event_log
from sse_app.operations import health

async def hang(*args):
    await asyncio.Event().wait()

event_log().aheads = event_log().achanges = hang
health.LATE_SECONDS = 0.1
"""


def lasting(daphne: Server, expected: int) -> dict[str, object]:
    """Ask until the answer is the expected one: what is known is kept for a second."""

    def found() -> dict[str, object] | None:
        answer = httpx.get(f"{daphne.url}/events/health/", timeout=PATIENCE)
        return answer.json() if answer.status_code == expected else None

    return dict(eventually(found, f"it does not answer {expected}"))


@pytest.mark.django_db(transaction=True)
async def test_one_that_is_stopping_is_not_ready(
    monkeypatch: pytest.MonkeyPatch, async_client: AsyncClient
) -> None:
    monkeypatch.setattr(Hub, "draining", True)
    answer = await async_client.get("/events/health/")
    assert (answer.status_code, answer.json()) == (503, {**FINE, "ready": False, "stopping": True})


@pytest.mark.django_db(transaction=True)
async def test_a_site_whose_requests_are_transactions_answers(
    monkeypatch: pytest.MonkeyPatch, async_client: AsyncClient
) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    answer = await async_client.get("/events/health/")
    assert (answer.status_code, answer.json()) == (200, FINE)


@pytest.mark.django_db(transaction=True)
async def test_whoever_asks_nothing_is_probed_twice_in_a_second(
    monkeypatch: pytest.MonkeyPatch, async_client: AsyncClient
) -> None:
    probed = 0
    real = health.probe_log

    async def counted() -> None:
        nonlocal probed
        probed += 1
        await real()

    monkeypatch.setattr(health, "probe_log", counted)
    monkeypatch.setattr(health, "KEPT_SECONDS", 600)
    for _ in range(3):
        assert (await async_client.get("/events/health/")).status_code == 200
    assert probed == 1
    monkeypatch.setattr(health, "KEPT_SECONDS", -1)
    await async_client.get("/events/health/")
    assert probed == 2


@pytest.mark.slow
def test_probes_that_get_no_answer_leave_nothing_behind(
    make_daphne: Callable[..., Daphne], redis: Valkey
) -> None:
    daphne = make_daphne({"REDIS_URL": redis.url})
    run(daphne, "from sse_app.operations import health\nhealth.KEPT_SECONDS = -1\nresult = None")
    run(daphne, "from sse_app.operations import health\nhealth.PROBE_SECONDS = 0.2\nresult = None")
    assert redis.process
    redis.process.send_signal(signal.SIGSTOP)
    counts = (
        "from channels.layers import get_channel_layer\n"
        "layers = list(get_channel_layer()._layers.values())\n"
        "result = sum(len(of.channels) + len(of.groups) for of in layers)"
    )
    try:
        for _ in range(5):
            assert ask(daphne, 503)["layer"] == "timeout"
        assert run(daphne, counts) <= 2, "each probe has added a channel or a group"
    finally:
        redis.process.send_signal(signal.SIGCONT)
    assert lasting(daphne, 200) == FINE
    eventually(lambda: run(daphne, counts) == 0)
    with redis.client() as client:
        eventually(lambda: client.pubsub_channels() == [])
