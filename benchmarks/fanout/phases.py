"""`Phase`: one measurement of a server."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from .cases import Case
from .client import Client
from .server import Server

SIZE: Final = 200
BIG: Final = 2_000
PACED, LIGHT, FLOOD, SLOW = 150, 10, 1_000, 200
#: Events a second that the search for the most begins with: the first of them that is kept.
FIRST = (300, 40)
#: For a server that is known to be slow, and would not be done with the others for long.
FIRST_SLOW = (10,)
TOO_LATE: Final = 1_000.0
LOSS: Final = 0.1
NEVER: Final = float("inf")
#: A pace for very many streams, and one for a server whom a single event takes longer than this.
WIDE, WIDE_SLOW, WIDE_SLOW_MS = (5, 5), (1, 2), 1_000.0

Figures = dict[str, float]


@dataclass(frozen=True)
class Scale:
    """How many streams and seconds."""

    streams: int = 200
    mute: int = 50
    idle: int = 5_000
    connects: int = 2_000
    paced_seconds: float = 3.0
    step_seconds: float = 1.2
    long_seconds: float = 20.0


QUICK: Final = Scale(200, 50, 1_000, 500, 1.5, 0.8, 4.0)


def steady(
    server: Server, rate: float, seconds: float, readers: int, size: int = SIZE, mute: int = 0
) -> Figures:
    """Publish at one pace to new streams; return what it cost and what came."""
    server.settle()
    with Client(server, readers, mute) as load:
        load.require()
        server.settle()
        load.figures()
        return counted(server, load, rate, seconds, size)


def counted(
    server: Server, load: Client, rate: float, seconds: float, size: int = SIZE, drain: float = 4.0
) -> Figures:
    """Publish at one pace to streams that are open."""
    cpu, memory, waited = server.cpu, server.memory, server.waited
    published = server.pace(rate, seconds, size)
    server.settle(drain)
    waited = server.waited - waited
    cpu, grown = server.cpu - cpu, server.memory - memory
    found = load.figures()
    expected, events = published * load.opened, found["events"]
    return {
        "rate": events / max(found["seconds"], seconds),
        "kept": published / max(round(rate * seconds), 1) * 100,
        "waited": waited / max(waited + cpu, 0.001) * 100,
        "per_cpu": events / cpu,
        "micros": cpu / max(events, 1) * 1e6,
        "per_read": events / max(found["reads"], 1),
        "bytes": found["bytes"] / max(events, 1),
        "p50": found["p50"] or NEVER,
        "p99": found["p99"] or NEVER,
        "last": (found["max"] or NEVER) if events >= expected else NEVER,
        "lost": (expected - events) / max(expected, 1) * 100,
        "ended": found["ended"],
        "client": found["cpu"] * 100,
        "grown": grown / 2**20,
    }


def light(server: Server, scale: Scale) -> Figures:
    """Few events."""
    return steady(server, LIGHT, scale.paced_seconds, scale.streams)


def paced(server: Server, scale: Scale) -> Figures:
    """About one event per read, so that joined writes are not mistaken for faster ones."""
    return steady(server, PACED, scale.paced_seconds, scale.streams)


def publishing(server: Server, scale: Scale) -> Figures:
    """One stream: what an event costs before it is delivered to many."""
    return steady(server, PACED, scale.paced_seconds, 1)


def saturated(server: Server, scale: Scale) -> Figures:
    """Double the pace until events are lost or late; return the figures of the most it kept."""

    def at(rate: float) -> Figures:
        return steady(server, rate, scale.step_seconds, scale.streams)

    def kept(figures: Figures) -> bool:
        return figures["lost"] <= LOSS and figures["p99"] < TOO_LATE

    for rate in FIRST_SLOW if server.case.slow else FIRST:
        best = at(rate)
        if kept(best) or server.stuck:
            break
    while kept(best) and not server.stuck:
        more = at(rate := rate * 2)
        if not kept(more) or more["rate"] < best["rate"] * 1.1:
            return more if kept(more) and more["rate"] > best["rate"] else best
        best = more
    return best


def flood(server: Server, scale: Scale) -> Figures:
    """A thousand events a second for long."""
    return steady(server, FLOOD, scale.long_seconds, scale.streams)


def slow(server: Server, scale: Scale) -> Figures:
    """A quarter of the streams never reads; latency and loss are the others'."""
    healthy = scale.streams - scale.mute
    return steady(server, SLOW, scale.long_seconds, healthy, BIG, scale.mute)


def idle(server: Server, scale: Scale) -> Figures:
    """Very many streams that wait, then one event for all of them, then a slow pace."""
    with Client(server, 20):
        server.pace(20, 0.5, SIZE)  # The first stream loads modules, which later streams do not.
    server.settle()
    memory = server.memory
    with Client(server, scale.idle, every=1) as load:
        server.settle(10)
        memory = server.memory - memory
        cpu = server.cpu
        time.sleep(scale.long_seconds)
        busy = (server.cpu - cpu) / scale.long_seconds
        load.figures()
        one = counted(server, load, 1, 1, drain=30)
        rate, seconds = WIDE if one["last"] < WIDE_SLOW_MS else WIDE_SLOW
        wide = counted(server, load, rate, seconds, drain=30)
    return {
        "open": load.opened,
        "kib": memory / max(load.opened, 1) / 1024,
        "busy": busy * 100,
        "reach": one["last"] / 1000,
        "micros": wide["micros"],
        "p99": wide["p99"],
        "lost": wide["lost"],
        "ended": wide["ended"],
        "client": wide["client"],
        "waited": wide["waited"],
    }


def connects(server: Server, scale: Scale) -> Figures:
    """All connect at once; the clock runs until each has its first event."""
    server.settle()
    cpu, waited = server.cpu, server.waited
    with Client(server, scale.connects, batch=scale.connects) as load:
        found: dict[str, Any] = load.connected
        cpu, waited = server.cpu - cpu, server.waited - waited
    return {
        "open": load.opened,
        "seconds": found["seconds"] if load.opened == scale.connects else NEVER,
        "per_second": load.opened / found["seconds"],
        "millis": cpu / max(load.opened, 1) * 1e3,
        "client": found["cpu"] * 100,
        "waited": waited / max(waited + cpu, 0.001) * 100,
    }


@dataclass(frozen=True)
class Phase:
    """`long` ones are not measured in every round; `fresh`: in a new process, for its memory."""

    name: str
    measure: Callable[[Server, Scale], Figures]
    long: bool = False
    fresh: bool = False
    ours_and_bare: bool = False

    def fits(self, case: Case) -> bool:
        """Whether it is measured for `case`."""
        if case.phases:
            return self.name in case.phases
        return not self.ours_and_bare or case.ours or case.bare

    def due(self, case: Case, turn: int) -> bool:
        """Whether it is measured in the round `turn`, from 0."""
        return not self.long or turn == 0 or (case.primary and turn % 2 == 0)


#: In this order, memory before what fills it.
PHASES: Final = (
    Phase("paced", paced),
    Phase("light", light),
    Phase("publishing", publishing, ours_and_bare=True),
    Phase("slow", slow, long=True),
    Phase("saturated", saturated),
    Phase("flood", flood, long=True, ours_and_bare=True),
    Phase("connects", connects, long=True),
    Phase("idle", idle, long=True, fresh=True),
)
