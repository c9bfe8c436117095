"""`Phase`: one kind of measurement, which gives figures for several situations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from ..fanout.cases import Case
from ..fanout.client import Client
from ..fanout.phases import NEVER, SIZE, Figures
from ..fanout.server import Server
from .ground import Ground

#: At the most so many clients wait for their first event at a time: the backlog's length.
AT_ONCE: Final = 4_000


@dataclass(frozen=True)
class Scale:
    """How many streams, and for how long."""

    #: Streams with one group each, of which each number is measured.
    curve: tuple[int, ...] = (200, 1_000, 5_000, 10_000)
    #: Of these streams the faster pace is measured too.
    fast: int = 5_000
    #: Streams with several groups each, and how many.
    several: int = 1_000
    groups: tuple[int, ...] = (5, 20)
    #: Streams that stay while others come and go.
    staying: int = 1_000
    arriving: int = 2_000
    returning: int = 5_000
    #: Streams of one group, which wait.
    waiting: int = 19_500
    #: What threads publish, each in one call.
    threads: tuple[int, ...] = (1, 8, 32)
    calls: int = 1_600
    pace: float = 200.0
    fast_pace: float = 1_000.0
    seconds: float = 2.0
    idle_seconds: float = 3.0
    #: Where the goals are about idle streams: as long as all need for a heartbeat each.
    beat_seconds: float = 16.0


QUICK: Final = Scale(
    curve=(200, 1_000),
    fast=1_000,
    several=100,
    staying=200,
    arriving=200,
    returning=500,
    waiting=1_000,
    calls=320,
    seconds=1.0,
    idle_seconds=2.0,
    beat_seconds=4.0,
)


@dataclass(frozen=True)
class Stage:
    """A case with what its measurements need."""

    case: Case
    ground: Ground
    scale: Scale

    @contextmanager
    def streams(
        self, count: int, *, groups: int = 1, batch: int = 250
    ) -> Iterator[tuple[Server, Client]]:
        """Run a server with so many streams that have so many groups of their own each."""
        with (
            self.ground.server(self.case) as server,
            Client(server, count, batch=batch, every=1, groups=groups) as load,
        ):
            yield server, load

    def paced(
        self,
        server: Server,
        load: Client,
        groups: int,
        rate: float,
        seconds: float = 0,
        beside: str = "",
    ) -> Figures:
        """Publish at a pace to one of the own groups at a time; return what an event cost.

        `groups`: 0 is the group of all. `beside`: a command that `load` carries out meanwhile; its
        answer is among the figures.
        """
        load.require()
        seconds = seconds or self.scale.seconds
        load.figures()
        if beside:
            load.begin(beside)
        cpu, stores = server.cpu, self.ground.stores(self.case)
        published = server.pace(rate, seconds, SIZE, groups)
        answer = load.answer() if beside else {}
        server.settle(4)
        cpu, stores = server.cpu - cpu, self.ground.stores(self.case) - stores
        found = load.figures()
        expected = published * (1 if groups else load.opened)
        return {
            **answer,
            "micros": cpu / max(published, 1) * 1e6,
            "stores": stores / max(published, 1) * 1e6,
            "kept": published / round(rate * seconds) * 100,
            "rate": published / seconds,
            "p50": found["p50"] or NEVER,
            "p99": found["p99"] or NEVER,
            "lost": (expected - found["events"]) / max(expected, 1) * 100,
            "ended": found["ended"],
        }


#: The name of a figure, its heading, its form.
Column = tuple[str, str, str]


@dataclass(frozen=True)
class Phase:
    """`measure` yields figures with the name of the situation that they are of."""

    name: str
    title: str
    measure: Callable[[Stage], Iterator[tuple[str, Figures]]]
    columns: tuple[Column, ...]
    fits: Callable[[Case], bool] = lambda case: True
