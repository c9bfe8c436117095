"""`METRICS`: every metric of a server process, and how it is read from the process's report.

Plain numbers, without the package that `sse_app.metrics` needs to tell them to Prometheus.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from ..runtime.telemetry import BOUNDS

Report = dict[str, Any]
#: The upper ends of the buckets, as they are named.
ENDS: Final = (*map(str, BOUNDS), "+Inf")


class Sample(NamedTuple):
    """The values of a metric's labels, and a number; of a histogram, also what each bucket has."""

    values: tuple[str, ...]
    number: float
    buckets: tuple[float, ...] = ()


Read = Callable[[Report], Iterator[Sample]]


@dataclass(frozen=True)
class Metric:
    """One name of which each process has a sample, or one for each value of `labels`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    read: Read
    labels: tuple[str, ...] = ()

    @property
    def series(self) -> str:
        """The name to query; that of a histogram ends in `_bucket`, `_sum` and `_count` too."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def _number(*path: str) -> Read:
    """What stands in a report under `path`."""

    def read(report: Report) -> Iterator[Sample]:
        found: Any = report
        for step in path:
            found = found[step]
        yield Sample((), float(found))

    return read


def _count(name: str) -> Read:
    return _number("counts", name)


def _counts(name: str) -> Read:
    """What was counted by reason."""

    def read(report: Report) -> Iterator[Sample]:
        for key, number in sorted(report["counts"].items()):
            kind, _, reason = key.partition(".")
            if kind == name and reason:
                yield Sample((reason,), float(number))

    return read


def _seconds(name: str) -> Read:
    """A histogram; none if the process is of another version, which has other buckets."""

    def read(report: Report) -> Iterator[Sample]:
        counts = report["counts"]
        keys = [f"{name}.le.{end}" for end in ENDS]
        if set(keys) <= counts.keys():
            buckets = tuple(float(counts[key]) for key in keys)
            yield Sample((), float(counts[f"{name}.sum"]), buckets)

    return read


def _states(report: Report) -> Iterator[Sample]:
    for state, number in report["open"].items():
        yield Sample((state,), float(number))


def _published(report: Report) -> Iterator[Sample]:
    for (log,), number, _ in _counts("published")(report):
        yield Sample((log, "false" if log == "none" else "true"), number)


def _layer_up(report: Report) -> Iterator[Sample]:
    yield Sample((), float(report["health"]["layer"] == "ok"))


def _age(report: Report) -> Iterator[Sample]:
    yield Sample((), max(0.0, time.time() - report["at"]))


def _about(report: Report) -> Iterator[Sample]:
    yield Sample((str(report["host"]), str(report["pid"]), report.get("server", "")), 1.0)


def _others_up(report: Report) -> Iterator[Sample]:
    if "others_up" in report:
        yield Sample((), float(report["others_up"]))


METRICS: Final = (
    Metric("sse_app_streams", "gauge", "Open streams by state.", _states, ("state",)),
    Metric("sse_app_streams_opened", "counter", "Streams that began.", _count("opened")),
    Metric(
        "sse_app_streams_closed", "counter", "Streams that ended.", _counts("closed"), ("reason",)
    ),
    Metric(
        "sse_app_refusals",
        "counter",
        "Requests for a stream that got none, by the reason they were told or the HTTP status.",
        _counts("refused"),
        ("reason",),
    ),
    Metric("sse_app_resets", "counter", "sse.reset written.", _counts("resets"), ("reason",)),
    Metric(
        "sse_app_events_published",
        "counter",
        "Events handed to the channel layer by this process; the durable ones have an offset.",
        _published,
        ("log", "durable"),
    ),
    Metric(
        "sse_app_events_delivered",
        "counter",
        "Events shown to readers: one event to a thousand streams counts a thousand.",
        _count("delivered"),
    ),
    Metric(
        "sse_app_events_superseded",
        "counter",
        "Non-durable events that a slow reader did not get, for a later one or too many.",
        _count("superseded"),
    ),
    Metric("sse_app_sent_bytes", "counter", "Bytes of the bodies of streams.", _count("bytes")),
    Metric(
        "sse_app_publish_seconds",
        "histogram",
        "Seconds from a call of publish() until the event log had returned; for a transaction, "
        "how long the log took to number its events after the commit.",
        _seconds("publish_seconds"),
    ),
    Metric(
        "sse_app_delivery_seconds",
        "histogram",
        "Seconds from when an event was handed to the channel layer, by the clock of who did, "
        "until this process had written it to its streams (of more than a thousand, the first "
        "thousand). Of events on their way at the same time, one is measured.",
        _seconds("delivery_seconds"),
    ),
    Metric(
        "sse_app_queue_bytes",
        "gauge",
        "Bytes in this process that wait for clients to take them.",
        _number("waiting", "bytes"),
    ),
    Metric(
        "sse_app_lag_events",
        "gauge",
        "Events that streams have yet to read from the log, over all streams.",
        _number("waiting", "events"),
    ),
    Metric(
        "sse_app_readers_lagged",
        "counter",
        "Readers that could take no more and were left to read the log when they can again.",
        _count("lagged"),
    ),
    Metric(
        "sse_app_readers_caught_up", "counter", "Those that were live again.", _count("caught_up")
    ),
    Metric(
        "sse_app_readers_stalled",
        "counter",
        "Those that took nothing for STALL_SECONDS and were let go.",
        _count("stalled"),
    ),
    Metric(
        "sse_app_heals",
        "counter",
        "How often a group was brought up to its log's head, since the layer had lost something.",
        _count("heals"),
    ),
    Metric(
        "sse_app_service_restarts",
        "counter",
        "How often a service of the hub had ended and began again, since it must not end.",
        _counts("restarts"),
        ("service",),
    ),
    Metric(
        "sse_app_hub_up",
        "gauge",
        "1 while the process has a hub, that is while somebody listens there.",
        _number("health", "hub"),
    ),
    Metric("sse_app_layer_up", "gauge", "1 if the channel layer answers.", _layer_up),
    Metric(
        "sse_app_draining", "gauge", "1 once it was told to stop.", _number("health", "draining")
    ),
    Metric(
        "sse_app_loop_lag_seconds",
        "gauge",
        "By how many seconds the event loop was late for its last timer of one second.",
        _number("health", "loop_lag"),
    ),
    Metric("sse_app_process_info", "gauge", "Always 1.", _about, ("host", "pid", "server")),
    Metric("sse_app_report_age_seconds", "gauge", "How old these figures are.", _age),
    Metric(
        "sse_app_others_up",
        "gauge",
        "1 if the process that was scraped could read what the others report.",
        _others_up,
    ),
)
