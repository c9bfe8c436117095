"""Nothing lost, nothing twice: clients that drop and come back, a log that heals the layer."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable

import httpx
import pytest

from ..support.patience import PATIENCE
from ..support.servers import Daphne

EVENTS = 2000
CLIENTS = 20


class DroppingClient:
    """Reads, drops the connection at random, comes back with its last id; notes what it saw."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seen: list[str] = []
        self.resets = 0
        self.connections = 0
        self.last_id = ""
        self.opened = asyncio.Event()

    async def read(self, daphne: Daphne) -> None:
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            while not self.seen or self.seen[-1] != "end":
                try:
                    await self._read_once(daphne, client)
                except (httpx.TransportError, StopAsyncIteration):
                    await asyncio.sleep(self.random.uniform(0, 0.05))

    async def _read_once(self, daphne: Daphne, client: httpx.AsyncClient) -> None:
        headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
        self.connections += 1
        drop_after = self.random.randint(1, 300)
        async with daphne.stream("group=orders", headers, client) as stream:
            while drop_after:
                event = await stream.next()
                self.last_id = event.id or self.last_id
                self.opened.set()
                if event.name == "sse.reset":
                    self.resets += 1
                elif event.name == "n":
                    self.seen.append(event.data)
                    drop_after -= 1
                    if event.data == "end":
                        return


@pytest.mark.matrix
@pytest.mark.parametrize("layer", ["in-memory", pytest.param("redis", marks=pytest.mark.slow)])
async def test_clients_that_drop_and_come_back_get_each_event_once_and_in_order(
    make_daphne: Callable[..., Daphne], valkey: str, layer: str
) -> None:
    daphne = make_daphne({"REDIS_URL": valkey if layer == "redis" else ""})
    clients = [DroppingClient(seed) for seed in range(CLIENTS)]
    reading = [asyncio.create_task(client.read(daphne)) for client in clients]
    for client in clients:
        await client.opened.wait()
    code = (
        "from sse_app import publish\n"
        f"for n in range({EVENTS}): publish('orders', 'n', str(n))\n"
        "publish('orders', 'n', 'end')"
    )
    await asyncio.gather(asyncio.to_thread(daphne.shell, code), *reading)
    expected = [str(n) for n in range(EVENTS)] + ["end"]
    for client in clients:
        assert client.resets == 0
        assert client.seen == expected
    assert sum(client.connections for client in clients) > CLIENTS * 5


@pytest.mark.slow
async def test_a_killed_server_comes_back_and_nothing_is_lost(daphne: Daphne) -> None:
    client = DroppingClient(1)
    reading = asyncio.create_task(client.read(daphne))
    await client.opened.wait()
    for n in range(30):
        if n % 10 == 5:
            await asyncio.to_thread(daphne.stop, signal.SIGKILL)
            await asyncio.to_thread(
                daphne.shell, f"from sse_app import publish\npublish('orders','n','{n}')"
            )
            await asyncio.to_thread(daphne.start)
        else:
            await asyncio.to_thread(daphne.publish, "orders", "n", str(n))
    await asyncio.to_thread(daphne.publish, "orders", "n", "end")
    await reading
    assert client.seen == [*map(str, range(30)), "end"]
    assert client.resets == 0


async def test_a_publisher_that_died_before_numbering_is_swept_up(daphne: Daphne) -> None:
    async with daphne.stream("group=orders") as stream:
        await stream.next()
        # Staged and committed, and then the process is gone before its on_commit runs.
        code = (
            "import os\n"
            "from django.db import transaction\n"
            "from sse_app import publish\n"
            "with transaction.atomic():\n"
            "    transaction.on_commit(lambda: os._exit(0))\n"
            "    publish('orders', 'n', 'orphan')\n"
        )
        await asyncio.to_thread(daphne.shell, code)
        assert (await stream.next()).data == "orphan"


async def test_a_restored_older_log_is_a_new_epoch_and_no_deafness(daphne: Daphne) -> None:
    for n in range(5):
        daphne.publish("orders", "n", str(n))
    async with daphne.stream("group=orders") as stream:
        opened = await stream.next()
        code = (
            "from sse_app.models import GroupHead, StoredEvent\n"
            "StoredEvent.objects.filter(offset__gt=2).delete()\n"
            "GroupHead.objects.update(offset=2)"
        )
        await asyncio.to_thread(daphne.shell, code)
        reset = await stream.next()
        assert (reset.name, reset.json()["reason"]) == ("sse.reset", "epoch")
        await asyncio.to_thread(daphne.publish, "orders", "n", "after")
        assert (await stream.next()).data == "after"
    async with daphne.stream("group=orders", {"Last-Event-ID": opened.id}) as stream:
        _, reset = await stream.take(2)
        assert reset.json()["reason"] == "epoch"
