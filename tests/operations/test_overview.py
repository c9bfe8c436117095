"""The dashboard's sums and rates out of reports, and which streams it lists."""

from __future__ import annotations

from typing import Any

import pytest

from sse_app.operations.dashboard.overview import MOST_STREAMS, Choice, Meter


def report(at: float, delivered: int = 0, **groups: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "at": at,
        "open": {"live": 2, "lagging": 1},
        "waiting": {"bytes": 10, "events": 1},
        "counts": {
            "delivered": delivered,
            "lagged": delivered,
            "resets.epoch": 1,
            "resets.trimmed": 2,
            "publish_seconds.le.0.1": 7,
        },
        "groups": {
            name: {"subscribers": subscribers, "published": published, "delivered": shown}
            for name, (subscribers, published, shown) in groups.items()
        },
    }


def test_what_grew_between_two_reports_is_a_rate() -> None:
    meter = Meter()
    meter.take({"a": report(100, 10, g=(3, 5, 15))}, 100)
    assert not meter.totals()["is_known"]
    assert list(meter.chart) == []
    meter.take({"a": report(102, 30, g=(3, 9, 27))}, 102)
    assert meter.totals()["delivered"] == 10
    assert meter.totals()["recent"]["lagged"] == 20
    assert meter.totals()["counts"]["resets"] == 3
    assert meter.groups() == [{"name": "g", "subscribers": 3, "published": 2, "delivered": 6}]
    assert list(meter.chart) == [(102, 2, 10)]


def test_an_event_that_two_processes_saw_was_published_once_and_delivered_by_both() -> None:
    meter = Meter()
    meter.take({"a": report(100, 0, g=(1, 0, 0)), "b": report(100, 0, g=(2, 0, 0))}, 100)
    meter.take({"a": report(101, 5, g=(1, 5, 5)), "b": report(101, 8, g=(2, 4, 8))}, 101)
    assert meter.groups() == [{"name": "g", "subscribers": 3, "published": 5, "delivered": 13}]
    totals = meter.totals()
    assert (totals["published"], totals["delivered"]) == (5, 13)
    assert totals["open"] == {"live": 4, "lagging": 2}
    assert totals["waiting"] == {"bytes": 20, "events": 2}


def test_a_rate_stays_until_the_next_report_and_goes_with_its_process() -> None:
    meter = Meter()
    for at in (100, 101):
        meter.take({"a": report(at, at * 5)}, at)
    meter.take({"a": report(101, 505)}, 101.5)
    assert meter.delivered("a") == 5
    meter.take({}, 102)
    assert meter.delivered("a") == 0
    assert meter.totals()["open"] == {}


def test_a_count_that_began_anew_is_no_fall() -> None:
    meter = Meter()
    meter.take({"a": report(100, 1000, g=(1, 90, 90))}, 100)
    meter.take({"a": report(101, 4, g=(1, 2, 4))}, 101)
    assert meter.delivered("a") == 4
    assert meter.groups()[0]["published"] == 2


def test_what_is_older_than_a_minute_is_not_recent() -> None:
    meter = Meter()
    for at, lagged in ((100, 0), (101, 7), (150, 9), (170, 9)):
        meter.take({"a": report(at, lagged)}, at)
    assert meter.totals()["recent"]["lagged"] == 2


def row(id: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": id,
        "user": "ann",
        "address": "10.0.0.1",
        "groups": ["orders"],
        "state": "live",
        "opened_at": 1.0,
        "bytes": 0,
        "queue": 0,
        "lag": 0,
        **fields,
    }


ROWS = [
    row("a", user="Bob", opened_at=1.0, lag=3),
    row("b", state="lagging", opened_at=3.0, queue=9),
    row("c", groups=["chat.lobby"], address="192.0.2.7", opened_at=2.0),
]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, "bca"),
        ({"sort": "oldest"}, "acb"),
        ({"sort": "queue"}, "bca"),
        ({"sort": "lag"}, "acb"),
        ({"sort": "user"}, "abc"),
        ({"q": "BOB"}, "a"),
        ({"q": "lobby"}, "c"),
        ({"q": "192.0"}, "c"),
        ({"q": " "}, "bca"),
        ({"q": "nobody"}, ""),
        ({"state": "lagging"}, "b"),
        ({"state": "ended"}, "z"),
        ({"state": "<nonsense>", "sort": "'; DROP TABLE"}, "bca"),
    ],
)
def test_streams_are_chosen_and_sorted(query: dict[str, str], found: str) -> None:
    rows, count = Choice.by(query).pick(ROWS, [row("z")])
    assert "".join(row["id"] for row in rows) == found
    assert count == len(found)


def test_of_many_streams_the_first_are_listed_and_all_are_counted() -> None:
    many = [row(f"{n:04}", opened_at=float(n)) for n in range(1000)]
    rows, count = Choice().pick(many, [])
    assert (len(rows), count) == (MOST_STREAMS, 1000)
    assert rows[0]["id"] == "0999"
