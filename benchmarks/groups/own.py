"""Streams with groups of their own: what an event to one of them costs, and what they cost idle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from ..fanout.cases import MEMORY_LOG
from ..fanout.phases import Figures
from ..fanout.server import Server
from .phase import Phase, Stage

#: Joins and leaves a second.
CHURN: Final = 200.0
#: So many clients wait for their first event at a time.
BATCH: Final = 250


def busy(server: Server, seconds: float) -> float:
    """Return the percentage of a core that the server takes without an event."""
    server.settle(10)
    cpu = server.cpu
    time.sleep(seconds)
    return (server.cpu - cpu) / seconds * 100


def own(stage: Stage) -> Iterator[tuple[str, Figures]]:
    """Open more and more streams with a group each on one server."""
    scale = stage.scale
    with stage.streams(scale.curve[0]) as (server, load):
        for count in scale.curve:
            load.open(count - load.asked, BATCH)
            server.settle(10)
            figures = stage.paced(server, load, count, scale.pace)
            if count == scale.fast:
                fast = stage.paced(server, load, count, scale.fast_pace)
                yield f"{count:,}, {scale.fast_pace:,.0f}/s", fast
            # Afterwards: for some seconds a server still has work with streams that have just come.
            last = count == scale.curve[-1]
            idle = busy(server, scale.beat_seconds if last else scale.idle_seconds)
            yield f"{count:,}", {"idle": idle, **figures}


def several(stage: Stage) -> Iterator[tuple[str, Figures]]:
    """Give each stream several groups that no other has."""
    scale = stage.scale
    for groups in scale.groups:
        # django-eventstream has a limit of ten channels for a stream.
        if stage.case.application == "eventstream" and groups > 10:
            continue
        with stage.streams(scale.several, groups=groups) as (server, load):
            server.settle(10)
            figures = stage.paced(server, load, scale.several * groups, scale.pace)
            idle = busy(server, scale.idle_seconds)
            yield f"{scale.several:,} × {groups}", {"idle": idle, **figures}


def churn(stage: Stage) -> Iterator[tuple[str, Figures]]:
    """Let streams with new groups come and go beside events to streams that stay."""
    scale = stage.scale
    seconds = scale.seconds * 2
    with stage.streams(scale.staying) as (server, load):
        server.settle(10)
        yield "none", stage.paced(server, load, scale.staying, scale.pace)
        beside = f"churn {CHURN} {seconds}"
        figures = stage.paced(server, load, scale.staying, scale.pace, seconds, beside)
        yield f"{CHURN:.0f}/s", {**figures, "joined": figures["joined"] / (CHURN * seconds) * 100}


def idle(stage: Stage) -> Iterator[tuple[str, Figures]]:
    """Very many streams of one group, and no event."""
    scale = stage.scale
    with stage.streams(scale.waiting, groups=0) as (server, load):
        load.require()
        yield f"{scale.waiting:,}", {"idle": busy(server, scale.beat_seconds)}


IDLE: Final = ("idle", "idle, % of a core", "{:.1f}")
EVENT: Final = (
    ("micros", "CPU µs per event", "{:,.0f}"),
    ("stores", "beside it µs of Valkey and PostgreSQL", "{:,.0f}"),
    ("kept", "pace kept %", "{:.0f}"),
    ("p50", "p50 ms", "{:.1f}"),
    ("p99", "p99 ms", "{:.1f}"),
    ("lost", "lost %", "{:.2f}"),
)
PHASES: Final = (
    Phase("own", "Streams with a group of their own each", own, (*EVENT, IDLE)),
    Phase("several", "Streams × groups that no other stream has", several, (*EVENT, IDLE)),
    Phase(
        "churn",
        "Streams with new groups that come and go a second",
        churn,
        (
            ("micros", "CPU µs per event, with the joins and leaves", "{:,.0f}"),
            *EVENT[1:],
            ("joined", "joined %", "{:.0f}"),
            ("busy", "sent away", "{:.0f}"),
        ),
    ),
    Phase(
        "idle",
        "Streams of one group, no event",
        idle,
        (IDLE,),
        # One log is enough, since none is asked; django-eventstream takes a minute to connect them.
        lambda case: case.log == MEMORY_LOG and case.application != "eventstream",
    ),
)
