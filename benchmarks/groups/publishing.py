"""Publishers: threads that publish at once, and one that waits for each `apublish()`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..fanout.phases import Figures
from ..publish import Case as Publishing
from ..publish import Publisher
from .phase import Phase, Stage

#: Streams that listen while one event after the other is published.
LISTENING: Final = 200
#: More than any server can.
AS_FAST_AS_POSSIBLE: Final = 1e6
#: So many events before a measurement make the connections and fill the caches.
WARM_UP: Final = 64


def threads(stage: Stage) -> Iterator[tuple[str, Figures]]:
    """Publish with several threads of one process, to one group and to many."""
    calls = stage.scale.calls
    with _publisher(stage, "threads") as publisher:
        for count in stage.scale.threads:
            for groups, target in ((1, "one group"), (calls, "many")):
                publisher.publish(max(count, WARM_UP), count, groups)
                answer = publisher.publish(calls, count, groups)
                figures = {"rate": calls / answer["seconds"], "p99": answer["p99"]}
                yield f"{count} to {target}", figures
    if stage.case.database == "postgresql":
        with _publisher(stage, "commit") as publisher:
            publisher.publish(WARM_UP)
            yield "INSERT and COMMIT alone", {"rate": calls / publisher.publish(calls)["seconds"]}


@contextmanager
def _publisher(stage: Stage, work: str) -> Iterator[Publisher]:
    case = stage.case
    with stage.ground.fresh(case) as around:
        redis = case.layer != "memory"
        publishing = Publishing(
            case.title, work, 0, log=case.log, database=case.database, redis=redis
        )
        publisher = Publisher(publishing, around.found, around.root)
        try:
            yield publisher
        finally:
            publisher.close()


def sequential(stage: Stage) -> Iterator[tuple[str, Figures]]:
    """Publish one event after the other in the server, each when the one before is published."""
    seconds = stage.scale.seconds
    for groups, target in ((LISTENING, "own groups"), (0, "one group")):
        with stage.streams(LISTENING, groups=min(groups, 1)) as (server, load):
            server.settle()
            stage.paced(server, load, groups, WARM_UP, 1)
            yield target, stage.paced(server, load, groups, AS_FAST_AS_POSSIBLE, seconds)


RATE: Final = ("rate", "publishes/s", "{:,.0f}")
P99: Final = ("p99", "p99 ms", "{:.1f}")
PHASES: Final = (
    Phase(
        "threads",
        "publish() by threads of one process",
        threads,
        (RATE, P99),
        lambda case: case.ours,
    ),
    Phase(
        "sequential",
        f"One apublish() after the other beside {LISTENING} streams",
        sequential,
        (RATE, ("micros", "CPU µs per event", "{:,.0f}"), P99, ("lost", "lost %", "{:.2f}")),
        lambda case: case.ours,
    ),
)
