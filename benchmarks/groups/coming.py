"""Streams that come, many at once or after a restart, and what the server needs for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from ..fanout.cases import MEMORY_LOG
from ..fanout.client import Client
from ..fanout.phases import NEVER, SIZE, Figures
from ..fanout.server import Server
from .phase import AT_ONCE, Phase, Stage

#: How many events each client missed that comes back.
MISSED: Final = 5
#: How many groups each client of the herd has.
HERD_GROUPS: Final = 20


def came(server: Server, cpu: float, load: Client, answer: dict[str, Any]) -> Figures:
    """Return the figures of streams that came, where `cpu` was the processor time before."""
    server.settle(10)
    return {
        "millis": (server.cpu - cpu) / max(load.opened, 1) * 1e3,
        "seconds": answer["seconds"] if load.opened == load.asked else NEVER,
        "away": load.asked - load.opened,
    }


def together(stage: Stage, count: int, groups: int) -> Figures:
    """Let `count` clients come at once to a new server."""
    with stage.ground.server(stage.case) as server:
        # The first stream loads modules, which later streams do not.
        with Client(server, 1, groups=groups):
            server.pace(20, 0.5, SIZE)
        server.settle()
        cpu = server.cpu
        with Client(server, count, batch=AT_ONCE, groups=groups) as load:
            return came(server, cpu, load, load.connected)


def arrive(stage: Stage) -> Iterator[tuple[str, Figures]]:
    """Let many come at once: to one group, each to its own, and each signed in to its own."""
    count = stage.scale.arriving
    yield "one group", together(stage, count, 0)
    yield "own groups", together(stage, count, 1)
    if stage.case.ours:
        signed_in = replace(stage, case=replace(stage.case, signed_in=True))
        yield "own groups, signed in", together(signed_in, count, 1)


def herd(stage: Stage) -> Iterator[tuple[str, Figures]]:
    """Let streams with twenty groups come at once, and streams with one come back."""
    scale = stage.scale
    yield f"{scale.several:,} × {HERD_GROUPS}", together(stage, scale.several, HERD_GROUPS)
    with stage.streams(scale.returning, batch=AT_ONCE) as (server, load):
        load.require()
        load.ask("leave")
        server.settle(10)
        server.fill(scale.returning, MISSED, SIZE)
        if stage.case.log != MEMORY_LOG:
            server.restart()
        server.settle(10)
        cpu = server.cpu
        load.connected = load.ask(f"back {AT_ONCE} {MISSED}")
        figures = came(server, cpu, load, load.connected)
        missing = load.asked * MISSED - load.connected["events"]
        yield f"{scale.returning:,} back, each {MISSED} behind", {**figures, "missing": missing}


COLUMNS: Final = (
    ("millis", "CPU ms each", "{:.2f}"),
    ("seconds", "seconds until all had their first event", "{:.2f}"),
    ("away", "sent away", "{:.0f}"),
)
PHASES: Final = (
    Phase("arrive", "Clients that come at once", arrive, COLUMNS),
    Phase(
        "herd",
        "Clients × groups that come at once, and clients that come back after a restart",
        herd,
        (*COLUMNS, ("missing", "events missing", "{:.0f}")),
        lambda case: case.ours,
    ),
)
