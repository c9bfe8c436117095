"""Publishing where gevent or eventlet has replaced the threads: no event loop in a greenlet."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

from sse_app.runtime import native

from ..selection import first_then_slow
from ..support.other_servers import GeventGunicorn
from ..support.patience import PATIENCE
from ..support.servers import ROOT, Daphne

PACKAGES = ["gevent", "eventlet"]
COUNT = 50


def run_program(package: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.greenlets", package, str(COUNT)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert done.stdout.split() == [str(COUNT), "0"]


async def read(stream: Any) -> dict[str, list[int]]:
    """Return the numbers of the events by name."""
    found: dict[str, list[int]] = {"passing": [], "durable": []}
    for event in await stream.take(2 * COUNT):
        found[event.name].append(int(event.data))
    return found


@pytest.mark.parametrize("host", first_then_slow(["localhost", "127.0.0.1"]))
@pytest.mark.parametrize("package", first_then_slow(PACKAGES))
async def test_greenlets_publish_and_use_the_database_with_a_layer_on_redis(
    package: str, host: str, make_daphne: Callable[..., Daphne], valkey: str
) -> None:
    # Events that are not durable reach the other process by the layer only.
    daphne = make_daphne({"REDIS_URL": valkey.replace("127.0.0.1", host)}, CHECK_INTERVAL=600)
    async with daphne.stream("group=orders") as stream:
        await stream.next()
        await asyncio.to_thread(run_program, package, daphne.environment)
        found = await read(stream)
    assert {name: sorted(numbers) for name, numbers in found.items()} == {
        "passing": [*range(COUNT)],
        "durable": [*range(COUNT)],
    }
    assert found["passing"][:2] == [0, 1]


@pytest.mark.parametrize("package", first_then_slow(PACKAGES))
def test_greenlets_publish_and_use_the_database_with_a_layer_in_memory(
    package: str, daphne: Daphne
) -> None:
    run_program(package, daphne.environment)


@pytest.mark.slow
async def test_a_worker_of_gunicorn_with_gevent_publishes_and_ends_in_order(
    make_server: Callable[..., Any], valkey: str
) -> None:
    make = partial(make_server, environ={"REDIS_URL": valkey})
    daphne, worker = make(Daphne, CHECK_INTERVAL=600), make(GeventGunicorn)
    async with daphne.stream("group=orders") as stream:
        await stream.next()

        async def ask(client: httpx.AsyncClient, number: int) -> None:
            form = {"group": "orders", "event": "passing", "data": str(number)}
            for how in ("publish-passing", "login"):
                answer = await client.post(
                    f"{worker.url}/test/{how}/", data={**form, "name": f"user{number}"}
                )
                assert answer.status_code == 200, worker.text()

        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            await ask(client, 0)
            await asyncio.gather(*(ask(client, number) for number in range(1, COUNT)))
        found = [int(event.data) for event in await stream.take(COUNT)]
    assert sorted(found) == [*range(COUNT)]
    worker.stop()
    assert worker.process.returncode == 0, worker.text()


def test_the_error_of_a_loop_that_can_not_be_made_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused() -> None:
        raise OSError("Too many open files")

    monkeypatch.setattr(asyncio, "new_event_loop", refused)
    with pytest.raises(OSError, match="Too many open files"):
        native.start_loop("of a test")
