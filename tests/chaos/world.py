"""Everything that takes part in one run: Valkey, servers, publishers and clients."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..support.cables import Cable
from ..support.servers import Daphne
from .clients import Client
from .parts import PATIENCE, PublisherProcess, environment_of, make_valkey
from .stores import Fork, Store

#: For a process of its own: events that a log has more when it has gone back.
GROW: Final = """
from sse_app import publish
for n in range(1, {count} + 1):
    data = f"fork{fork}:{{n}}"
    print(data)
    for group in {groups!r}:
        publish(group, group, data)
"""
GROUPS: Final = ("chaos.a", "chaos.b", "chaos.c")


@dataclass(frozen=True)
class Plan:
    """What is to happen. `drop`, `double`, `late`: shares of the channel layer's messages."""

    log: str
    seed: int
    kills: int = 100
    restarts: int = 20
    freezes: int = 4
    publisher_kills: int = 50
    #: How often the log goes back, the connections to it and to the layer fall silent, and a
    #: session that has locked the head of a group freezes.
    forks: int = 0
    silences: int = 0
    session_freezes: int = 0
    clients: int = 50
    publishers: int = 4
    servers: int = 3
    #: Acknowledged events that there must be before the end.
    events: int = 200
    drop: float = 0.1
    double: float = 0.1
    late: float = 0.2
    check_interval: float = 2.0
    #: Note every check of the heads; only for the database log.
    observed: bool = False

    @classmethod
    def half_dropped(cls, seed: int, **sizes: Any) -> Plan:
        """Return a plan in which nothing is killed and half of the layer's messages are dropped.

        On PostgreSQL, which does not tell of commits: a lost last message waits for the check.
        """
        nothing = {"kills": 0, "restarts": 0, "freezes": 0, "publisher_kills": 0}
        layer = {"drop": 0.5, "double": 0.0, "late": 0.0}
        return cls("postgresql", seed, observed=True, **{**nothing, **layer, **sizes})


class World:
    """The processes and clients of one plan, and how to start, hurt and stop them."""

    def __init__(self, plan: Plan, folder: Path, store: Store) -> None:
        self.plan = plan
        self.random = random.Random(f"{plan.seed} world")
        self.folder = folder
        self.valkey = make_valkey(folder)
        self.store = store
        self.forks: list[Fork] = []
        self.layer = Cable(self.valkey.port)
        layer_url = f"redis://{self.layer.url.removeprefix('http://')}/0"
        self.environment = {**store.environment, "REDIS_URL": layer_url}
        self.facts: dict[int, Path] = {}
        self.servers = [self._make_server(n) for n in range(plan.servers)]
        self.publishers = [self._make_publisher(n) for n in range(plan.publishers)]
        self.clients = [self._make_client(n) for n in range(plan.clients)]
        self._up = set(self.servers)
        self._readers: dict[Client, asyncio.Task[None]] = {}
        self._repairs: set[asyncio.Task[None]] = set()
        self._nurse: asyncio.Task[None] | None = None

    def _make_server(self, number: int) -> Daphne:
        settings: dict[str, Any] = {
            "EVENT_LOG": self.store.event_log,
            "PUBLIC_GROUPS": ["chaos.*"],
            "HEARTBEAT": 1.0,
            "RETENTION_EVENTS": 10**6,
            "CHECK_INTERVAL": self.plan.check_interval,
        }
        facts = self.folder / f"checks-{number}.json"
        if self.plan.observed:
            backend = "tests.chaos.observed.ObservedLog"
            settings["EVENT_LOG"] = {"BACKEND": backend, "FACTS": str(facts)}
        environment = {**self.environment, "TEST_CHAOS_LAYER": self._layer(number)}
        server = Daphne(self.folder, environment, **settings)
        self.facts[server.port] = facts
        return server

    def _make_publisher(self, number: int) -> PublisherProcess:
        layer = self._layer(100 + number)
        environment = environment_of(self.servers[0].environment, TEST_CHAOS_LAYER=layer)
        return PublisherProcess(number, self.folder, environment)

    def _make_client(self, number: int) -> Client:
        groups = self.random.sample(GROUPS, self.random.randint(1, len(GROUPS)))
        ports = [server.port for server in self.servers]
        # Every tenth comes when half of it has happened, and asks for all from the beginning.
        return Client(number, groups, ports, self.plan.seed, late=number % 10 == 9)

    def _layer(self, number: int) -> str:
        plan = self.plan
        shares = {"drop": plan.drop, "double": plan.double, "late": plan.late}
        return json.dumps({**shares, "seed": plan.seed * 1000 + number})

    # --- from the beginning to the end ---

    async def begin(self) -> None:
        """Start everything; the publishers last, when every early client is connected."""
        await asyncio.to_thread(self.valkey.start)
        await asyncio.to_thread(self.servers[0].manage, "migrate", "--verbosity", "0")
        if self.store.has_tables_beside:
            await asyncio.to_thread(self._beside().manage, "migrate", "--verbosity", "0")
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in self.servers))
        early = [client for client in self.clients if not client.late]
        self._let_in(early)
        await self.until(lambda: all(client.opened for client in early), "all clients connect")
        for publisher in self.publishers:
            publisher.start(self.plan.seed, GROUPS)
        self._nurse = asyncio.create_task(self._revive())
        await self.until(lambda: all(client.count for client in early), "all clients receive")

    def let_in_the_late(self) -> None:
        """Start the clients that have waited; nothing happens the second time."""
        self._let_in([client for client in self.clients if client not in self._readers])

    async def repaired(self) -> None:
        """Return when everything that was killed runs again."""
        await asyncio.gather(*self._repairs)

    async def quiet(self) -> None:
        """Stop the publishers; from now on no client drops a stream by itself."""
        await self._dismiss_nurse()
        await self._stop_publishers(signal.SIGTERM)
        for client in self.clients:
            client.restless = False

    async def end(self) -> None:
        """Stop everything that runs, whatever state it is in."""
        await self._dismiss_nurse()
        for task in self._readers.values():
            task.cancel()
        await asyncio.gather(*self._readers.values(), *self._repairs, return_exceptions=True)
        await self._stop_publishers(signal.SIGKILL)
        for server in self.servers:
            await asyncio.to_thread(server.close)
        self.layer.close()
        await asyncio.to_thread(self.valkey.kill)

    def _beside(self) -> Daphne:
        """Return a process, not started, that publishes to the copy of the log, and to no layer."""
        environment = {**self.store.copied, "REDIS_URL": ""}
        process = Daphne(self.folder, environment, EVENT_LOG=self.store.copied_event_log)
        process.socket.close()
        return process

    def _let_in(self, clients: list[Client]) -> None:
        self._readers |= {client: asyncio.create_task(client.run()) for client in clients}

    async def _stop_publishers(self, how: signal.Signals) -> None:
        await asyncio.gather(*(asyncio.to_thread(each.stop, how) for each in self.publishers))

    # --- what may happen ---

    async def kill_server(self) -> None:
        """Kill a server that runs; it is started again in a while."""
        await self.until(lambda: self._up, "a server runs")
        server = self.random.choice([each for each in self.servers if each in self._up])
        self._up.discard(server)
        await asyncio.to_thread(server.stop, signal.SIGKILL)
        self._repair(self._start_server(server, self.random.uniform(0, 1)))

    async def restart_valkey(self) -> None:
        """Kill Valkey, and start it again on its data after a while; the log's own as well."""
        await asyncio.to_thread(self.valkey.kill)
        await asyncio.to_thread(self.store.kill)
        await asyncio.sleep(self.random.uniform(0, 1.5))
        await asyncio.to_thread(self.valkey.start)
        await asyncio.to_thread(self.store.start)

    async def freeze_valkey(self) -> None:
        """Let Valkey answer nobody for longer than the log waits, and then do what it was told."""
        servers = [self.valkey, *self.store.servers]
        for server in servers:
            server.signal(signal.SIGSTOP)
        await asyncio.sleep(6)
        for server in servers:
            server.signal(signal.SIGCONT)

    async def fall_silent(self) -> None:
        """Let the network swallow what is sent to the layer and to the log, and then end it."""
        cables = [self.layer, *self.store.cables]
        for cable in cables:
            cable.cut()
        await asyncio.sleep(self.random.uniform(1, 6))
        for cable in cables:
            cable.mend()

    async def freeze_session(self) -> None:
        """Freeze a session that has locked the head of a group: all that need it have to wait."""
        with self.store.frozen_session(self.random.choice(GROUPS)):
            await asyncio.sleep(self.random.uniform(3, 8))

    async def go_back(self) -> None:
        """Let the log go back by what comes in half a second, and mostly grow in the same step."""
        if self.forks:
            # What was found out of the last time must be in the copy.
            since = time.monotonic() - self.forks[-1].at
            await asyncio.sleep(max(0, 3 * self.plan.check_interval - since))
        await asyncio.to_thread(self.store.copy)
        grown = self.random.choice([0, 20, 80, 200])
        names = []
        if grown:
            code = GROW.format(fork=len(self.forks), groups=GROUPS, count=grown)
            names = (await asyncio.to_thread(self._beside().shell, code)).split()
        else:
            await asyncio.sleep(self.random.uniform(0.1, 0.5))
        fork = await asyncio.to_thread(self.store.go_back)
        self.forks.append(fork)
        when = f"{fork.begun} {fork.at}"
        lines = [f"ok {when} {group} {data}\n" for group in GROUPS for data in names]
        (self.folder / f"fork-{len(self.forks)}.notes").write_text("".join(lines))

    async def kill_publisher(self) -> None:
        """Kill a publisher; it is started again at once under another name."""
        await asyncio.to_thread(self.random.choice(self.publishers).stop, signal.SIGKILL)

    async def _revive(self) -> None:
        """Start publishers that died again, for ever: some die by themselves."""
        while True:
            for publisher in self.publishers:
                if publisher.is_dead:
                    publisher.start(self.plan.seed, GROUPS)
            await asyncio.sleep(0.05)

    async def _dismiss_nurse(self) -> None:
        if self._nurse is not None:
            self._nurse.cancel()
            await asyncio.gather(self._nurse, return_exceptions=True)

    async def _start_server(self, server: Daphne, after: float) -> None:
        await asyncio.sleep(after)
        await asyncio.to_thread(server.start)
        self._up.add(server)

    def _repair(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._repairs.add(task)
        task.add_done_callback(self._repaired)

    def _repaired(self, task: asyncio.Task[None]) -> None:
        if task.exception() is None:  # One that failed is raised to whoever waits next.
            self._repairs.discard(task)

    # --- facts to wait for ---

    @property
    def deliveries(self) -> int:
        """How many events all clients have received."""
        return sum(client.count for client in self.clients)

    async def until(self, fact: Callable[[], object], what: str, within: float = PATIENCE) -> None:
        """Return when `fact` is true. Raises `TimeoutError`, and what a task of ours died of."""
        deadline = time.monotonic() + within
        while not fact():
            for task in (*self._readers.values(), *self._repairs):
                if task.done():
                    task.result()
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {within:.0f} s in vain until {what}")
            await asyncio.sleep(0.02)
