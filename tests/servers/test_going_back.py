"""A log goes back and grows again, under open streams and under clients with cursors of before."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from ..chaos.clients import Client
from ..chaos.failovers import ClusterFailover, SentinelFailover, StandbyFailover
from ..chaos.stores import Store, open_store
from ..support.patience import PATIENCE
from ..support.servers import Daphne, eventually

#: How many events a group has when the log is copied and when it goes back, and how many follow.
COPIED: Final = 7
BEFORE: Final = 10
AFTER: Final = 4
#: By how many events the copy has grown when it is put in place of the log: the next event is
#: behind the events that a client has, right after them, or further on.
GROWN: Final = (0, BEFORE - COPIED, BEFORE - COPIED + 2)
EQUAL: Final = (False, True)
#: For the server that must not find out by itself.
NEVER: Final = 3600.0
PUBLISH: Final = """
import json
from sse_app import publish_many
publish_many([tuple(event) for event in json.loads(%r)])
"""


def data_of(group: str, number: int, chain: str) -> str:
    """Return the data of the event `number`, which may be the same in each chain."""
    return str(number) if group.endswith("equal") else f"{chain}-{number}"


def names(kind: str) -> dict[str, int]:
    """Return the names of groups of a kind, and by how many events the copy of each grows."""
    return {
        f"{kind}.{grown}.{'equal' if equal else 'other'}": grown
        for grown in GROWN
        for equal in EQUAL
    }


#: With a stream that is open all the time, and with clients that are away when the log goes back.
OPEN: Final = names("open")
AWAY: Final = names("away")
GROUPS: Final = {**OPEN, **AWAY}


def events(first: Callable[[str], int], last: Callable[[str], int], chain: str) -> str:
    """Return events of each group by their numbers, as JSON."""
    return json.dumps(
        [
            (group, group, data_of(group, number, chain))
            for group in GROUPS
            for number in range(first(group), last(group) + 1)
        ]
    )


@contextmanager
def server_on(folder: Path, store: Store, **sse_app: Any) -> Iterator[Daphne]:
    """Start a server on `store`."""
    environment = {**store.environment, "REDIS_URL": ""}
    server = Daphne(folder, environment, EVENT_LOG=store.event_log, PUBLIC_GROUPS=["*"], **sse_app)
    try:
        yield server.start()
    finally:
        server.close()


def shell(folder: Path, store: Store, events: str, *, copied: bool = False) -> None:
    """Publish to the store or to its copy in a process whose layer reaches nobody."""
    environment = store.copied if copied else store.environment
    event_log = store.copied_event_log if copied else store.event_log
    process = Daphne(folder, {**environment, "REDIS_URL": ""}, EVENT_LOG=event_log)
    try:
        process.shell(PUBLISH % events)
    finally:
        process.close()


@asynccontextmanager
async def connected(client: Client) -> AsyncIterator[Client]:
    """Let `client` read, and come back when its stream ends, until the block ends."""
    task = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(fact: Callable[[], object], what: Callable[[], object]) -> None:
    """Return when `fact` is true."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not fact():  # noqa: ASYNC110 - many small facts of other tasks
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"in vain: {what()}")


class Scene:
    """A server, and in each group a client."""

    def __init__(self, server: Daphne) -> None:
        self.server = server
        self.open = [self.client(group) for group in OPEN]
        self.away = [self.client(group) for group in AWAY]
        #: These saw nothing of what is lost, and come back when others have found out.
        self.early = [self.client(group) for group in OPEN]

    def client(self, group: str) -> Client:
        """Return a client that drops no stream by itself."""
        client = Client(0, [group], [self.server.port], 1, late=True)
        client.restless = False
        return client

    async def publish(self, *which: Any) -> None:
        """Publish `events()` in the process of the server, one by one."""
        for event in json.loads(events(*which)):
            await asyncio.to_thread(self.server.publish, *event)

    async def until_publishes(self) -> None:
        """Return when the server has found the log again."""

        def publish() -> bool:
            form = {"group": "probe", "event": "n", "data": ""}
            answer = httpx.post(f"{self.server.url}/test/publish/", data=form, timeout=PATIENCE)
            return answer.status_code == 200

        await asyncio.to_thread(eventually, publish, "the server does not find the log")

    async def until_have(self, clients: Sequence[Client], count: int) -> None:
        """Return when each of `clients` has had `count` events."""
        await until(
            lambda: all(client.count >= count for client in clients),
            lambda: told(clients),
        )

    async def let_read(self, clients: Sequence[Client], count: int) -> None:
        """Let clients read until they have had `count` events, and then go away."""
        tasks = [asyncio.create_task(client.run()) for client in clients]
        await self.until_have(clients, count)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def told(clients: Sequence[Client]) -> dict[str, Any]:
    """Return what each client got: its events, and at which places it was reset."""
    return {
        client.groups[0]: (
            client.received[client.groups[0]].data,
            [(reset.index, reset.reason) for reset in client.received[client.groups[0]].resets],
        )
        for client in clients
    }


def migrate(folder: Path, store: Store, migrated: Path) -> None:
    """Make the tables in `store`."""
    url = store.environment["DATABASE_URL"]
    if url.startswith("sqlite:"):
        shutil.copy(migrated, url.removeprefix("sqlite:///"))
        return
    environments = [store.environment, store.copied]
    for environment in environments[: 1 + store.has_tables_beside]:
        process = Daphne(folder, environment)
        process.manage("migrate", "--verbosity", "0")
        process.close()


def slowly(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.servers
@pytest.mark.parametrize(
    ("log", "found_by"),
    [
        slowly("sqlite", "a check"),
        slowly("postgresql", "a check"),
        slowly("postgresql", "the layer"),
        slowly("redis", "a check"),
        slowly("redis", "the layer"),
    ],
)
async def test_every_client_is_told_that_the_log_went_back_and_grew_again(
    log: str, found_by: str, tmp_path: Path, migrated: Path
) -> None:
    interval = NEVER if found_by == "the layer" else 0.5
    with open_store(log, tmp_path) as store:
        migrate(tmp_path, store, migrated)
        with server_on(tmp_path, store, CHECK_INTERVAL=interval) as server:
            await go_back(tmp_path, store, Scene(server), by_layer=found_by == "the layer")


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.parametrize("how", ["sentinel", "cluster", "standby"])
async def test_every_client_is_told_of_what_was_lost_by_a_failover(
    how: str, tmp_path: Path, migrated: Path
) -> None:
    environment = {"DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}"}
    with ExitStack() as stack:
        store: Store
        if how == "standby":
            store = StandbyFailover(tmp_path, stack)
        else:
            kind = SentinelFailover if how == "sentinel" else ClusterFailover
            store = kind(tmp_path, environment, stack)
        migrate(tmp_path, store, migrated)
        with server_on(tmp_path, store, CHECK_INTERVAL=NEVER) as server:
            await go_back(tmp_path, store, Scene(server), by_layer=True)


async def go_back(folder: Path, store: Store, scene: Scene, *, by_layer: bool) -> None:
    """Let the log go back and grow; all clients must be reset before they get anything newer."""

    async with AsyncExitStack() as stack:

        async def connect(clients: Sequence[Client], times: int) -> None:
            for client in clients:
                await stack.enter_async_context(connected(client))
            await until(lambda: all(len(c.opened) == times for c in clients), lambda: "to connect")

        await connect(scene.open, 1)
        await scene.publish(lambda group: 1, lambda group: COPIED, "a")
        await scene.let_read(scene.early, COPIED)
        store.copy()
        await scene.publish(lambda group: COPIED + 1, lambda group: BEFORE, "a")
        await scene.let_read(scene.away, BEFORE)
        await scene.until_have(scene.open, BEFORE)
        grown = events(lambda group: COPIED + 1, end_of_copy, "b")
        if store.copy_grows:
            await asyncio.to_thread(shell, folder, store, grown, copied=True)
        await asyncio.to_thread(store.go_back)
        if not store.copy_grows:
            await asyncio.to_thread(shell, folder, store, grown)
        await scene.until_publishes()
        await connect(scene.away, 2)
        after = (lambda group: end_of_copy(group) + 1), (lambda group: end_of_copy(group) + AFTER)
        if by_layer:
            await scene.publish(*after, "b")
        else:
            await asyncio.to_thread(shell, folder, store, events(*after, "b"))
        await until_last(scene.open + scene.away)
        await connect(scene.early, 2)
        await until_last(scene.early)
    assert untold(scene.open + scene.away, BEFORE) == {}
    assert untold(scene.early, COPIED) == {}


def end_of_copy(group: str) -> int:
    """Return the number of the last event of the copy as it has grown."""
    return COPIED + GROUPS[group]


async def until_last(clients: Sequence[Client]) -> None:
    """Return when each of `clients` has the last event, or was reset, which is as well."""

    def have(client: Client) -> bool:
        (group,) = client.groups
        last = data_of(group, end_of_copy(group) + AFTER, "b")
        return bool(client.resets) or client.has(group, last)

    await until(lambda: all(map(have, clients)), lambda: told(clients))


def untold(clients: Sequence[Client], count: int) -> dict[str, Any]:
    """Return what those got that were not reset right after the `count` events of before."""
    return {
        group: (data[count:], resets)
        for group, (data, resets) in told(clients).items()
        if count not in (index for index, _ in resets)
    }
