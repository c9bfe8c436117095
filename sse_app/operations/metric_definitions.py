"""`METRICS`: every metric of a server process, and how to read it from the process's report.

Does not need the package `prometheus_client`, which `sse_app.metrics` needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from ..runtime.telemetry import BOUNDS

Report = dict[str, Any]
#: The upper bounds of the buckets, as Prometheus names them.
ENDS: Final = (*map(str, BOUNDS), "+Inf")


class Sample(NamedTuple):
    """The values of a metric's labels, and a number; for a histogram, also the buckets' counts."""

    values: tuple[str, ...]
    number: float
    buckets: tuple[float, ...] = ()


Read = Callable[[Report], Iterator[Sample]]


@dataclass(frozen=True)
class Metric:
    """A metric. Each process has one sample, or one sample for each value of `labels`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    read: Read
    labels: tuple[str, ...] = ()

    @property
    def series(self) -> str:
        """The name in queries; a histogram's also gets `_bucket`, `_sum` and `_count` appended."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def _number(*path: str) -> Read:
    """Read the number at `path` of a report."""

    def read(report: Report) -> Iterator[Sample]:
        found: Any = report
        for step in path:
            found = found[step]
        yield Sample((), float(found))

    return read


def _count(name: str) -> Read:
    return _number("counts", name)


def _counts(name: str) -> Read:
    """Read the counts of `name` by reason."""

    def read(report: Report) -> Iterator[Sample]:
        for key, number in sorted(report["counts"].items()):
            kind, _, reason = key.partition(".")
            if kind == name and reason:
                yield Sample((reason,), float(number))

    return read


def _seconds(name: str) -> Read:
    """Read a histogram; no sample if a process of another version has other buckets."""

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


def _delay(report: Report) -> Iterator[Sample]:
    # A process of an older version does not report it.
    yield Sample((), float(report["health"].get("delay", 0.0)))


def _log_up(report: Report) -> Iterator[Sample]:
    yield Sample((), float(report["health"]["log"] == "ok"))


def _limits_shared(report: Report) -> Iterator[Sample]:
    if (shared := report["health"]["limits_shared"]) is not None:
        yield Sample((), float(shared))


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
        "Requests for a stream that were refused, by the reason in the answer or the HTTP status.",
        _counts("refused"),
        ("reason",),
    ),
    Metric("sse_app_resets", "counter", "sse.reset written.", _counts("resets"), ("reason",)),
    Metric(
        "sse_app_events_published",
        "counter",
        "Events that this process gave to the channel layer; durable events have an offset.",
        _published,
        ("log", "durable"),
    ),
    Metric(
        "sse_app_events_lost",
        "counter",
        "Durable events of committed transactions that the event log did not take.",
        _count("lost"),
    ),
    Metric(
        "sse_app_events_delivered",
        "counter",
        "Events sent to readers: one event to a thousand streams counts a thousand.",
        _count("delivered"),
    ),
    Metric(
        "sse_app_events_superseded",
        "counter",
        "Non-durable events that a slow reader missed: replaced by a later one, or too many.",
        _count("superseded"),
    ),
    Metric("sse_app_sent_bytes", "counter", "Bytes of the bodies of streams.", _count("bytes")),
    Metric(
        "sse_app_publish_seconds",
        "histogram",
        "Seconds that a call of publish() waited for the event log; in a transaction, seconds "
        "that the log took to number the transaction's events after the commit.",
        _seconds("publish_seconds"),
    ),
    Metric(
        "sse_app_delivery_seconds",
        "histogram",
        "Seconds from when the publisher gave an event to the channel layer, by the publisher's "
        "clock, until this process had written it to its streams (if there are more than a "
        "thousand, to the first thousand). Of events in delivery at the same time, one is "
        "measured.",
        _seconds("delivery_seconds"),
    ),
    Metric(
        "sse_app_queue_bytes",
        "gauge",
        "Bytes in this process that clients have not read yet.",
        _number("waiting", "bytes"),
    ),
    Metric(
        "sse_app_lag_events",
        "gauge",
        "Events that streams still have to read from the log, summed over all streams.",
        _number("waiting", "events"),
    ),
    Metric(
        "sse_app_readers_lagged",
        "counter",
        "Readers that read too slowly, and continue from the log when they can read again.",
        _count("lagged"),
    ),
    Metric(
        "sse_app_readers_caught_up",
        "counter",
        "Lagging readers that became live again.",
        _count("caught_up"),
    ),
    Metric(
        "sse_app_readers_stalled",
        "counter",
        "Readers that were disconnected because they read nothing for STALL_SECONDS.",
        _count("stalled"),
    ),
    Metric(
        "sse_app_heals",
        "counter",
        "How often a group was read from the log because the channel layer had lost events.",
        _count("heals"),
    ),
    Metric(
        "sse_app_service_restarts",
        "counter",
        "How often a service of the hub ended unexpectedly and was started again.",
        _counts("restarts"),
        ("service",),
    ),
    Metric(
        "sse_app_hub_up",
        "gauge",
        "1 while the process has a hub, that is, while it has subscribers.",
        _number("health", "hub"),
    ),
    Metric(
        "sse_app_numbering_delay_seconds",
        "gauge",
        "Seconds for which committed events have waited for their offsets, because another session "
        "of the database has locked the heads of their groups.",
        _delay,
    ),
    Metric("sse_app_layer_up", "gauge", "1 if the channel layer answers.", _layer_up),
    Metric("sse_app_log_up", "gauge", "1 if the event log answers.", _log_up),
    Metric(
        "sse_app_limits_shared",
        "gauge",
        "1 if the limits count the streams of all processes; 0 while Redis does not answer and the "
        "process counts its own streams only. No sample if there is no Redis to share.",
        _limits_shared,
    ),
    Metric(
        "sse_app_draining",
        "gauge",
        "1 while the process closes its streams in order to stop.",
        _number("health", "draining"),
    ),
    Metric(
        "sse_app_loop_lag_seconds",
        "gauge",
        "Seconds by which the event loop ran its last timer of one second too late.",
        _number("health", "loop_lag"),
    ),
    Metric("sse_app_process_info", "gauge", "Always 1.", _about, ("host", "pid", "server")),
    Metric("sse_app_report_age_seconds", "gauge", "Age of the process's report.", _age),
    Metric(
        "sse_app_others_up",
        "gauge",
        "1 if the scraped process could read the reports of the other processes.",
        _others_up,
    ),
)
