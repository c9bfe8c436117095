"""`Collector`: the metrics of all server processes for Prometheus, from any one of them.

The numbers of the scraped process are current, those of the others come from their last reports.
So scraping one process gets the metrics of all. This module needs `prometheus_client`. Public:
`Collector`.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from django.db import Error
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector as AnyCollector

from .operations import processes, reports
from .operations.metric_definitions import ENDS, METRICS, Metric, Report, Sample
from .runtime.telemetry import log_fields, process_name

__all__ = ["Collector"]

logger = logging.getLogger("sse_app")


class Collector(AnyCollector):
    """A collector for your own registry, for example in a task worker.

    Each series has the label `process`, a random name. Collecting costs one query. If the database
    does not answer, only the metrics of this process are collected.
    """

    def collect(self) -> Iterator[Family]:
        """Yield every metric of every process."""
        found = list(_reports())
        for metric in METRICS:
            yield _family(metric, found)

    def describe(self) -> Iterator[Family]:
        """Yield every metric without samples, so that registering needs no query."""
        for metric in METRICS:
            yield _family(metric, ())


def exposition(accept: str) -> tuple[bytes, str]:
    """Return the metrics in a format that the header `Accept` permits, and its content type."""
    registry = CollectorRegistry()
    registry.register(Collector())
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _reports() -> Iterator[tuple[str, Report]]:
    """Yield the name and report of each process, its own first."""
    try:
        others = [row for row in processes.alive() if row.name != process_name()]
        readable = True
    except Error as error:
        logger.warning(
            "The reports of the other processes can't be read: %r",
            error,
            extra=log_fields(error=error),
        )
        others, readable = [], False
    own = {"host": socket.gethostname(), "pid": os.getpid(), "others_up": readable}
    report = reports.report if processes.reporter is None else processes.reporter.report
    yield process_name(), {**report(), **own}
    for row in others:
        yield row.name, {**row.report, "host": row.host, "pid": row.pid}


def _samples(metric: Metric, report: Report) -> list[Sample]:
    try:
        return list(metric.read(report))
    except (AttributeError, KeyError, TypeError, ValueError):
        return []  # A process with another version of the app reports this otherwise, or not.


def _family(metric: Metric, reports: Iterable[tuple[str, Report]]) -> Family:
    labels = ["process", *metric.labels]
    kinds: dict[str, Any] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
    kind = kinds.get(metric.kind, HistogramMetricFamily)
    family: Any = kind(metric.name, metric.help, labels=labels)
    for process, report in reports:
        for values, number, buckets in _samples(metric, report):
            if buckets:
                counts = zip(ENDS, accumulate(buckets), strict=True)
                family.add_metric([process, *values], buckets=list(counts), sum_value=number)
            else:
                family.add_metric([process, *values], number)
    return family  # type: ignore[no-any-return]
