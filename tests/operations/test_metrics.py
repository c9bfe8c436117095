"""`GET metrics/`: what it says, over several processes, and to whom."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import Permission, User
from django.db import OperationalError
from django.test import Client, RequestFactory, override_settings
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from sse_app.access import addresses
from sse_app.access.tokens import create_token, revoke_token
from sse_app.operations.metric_definitions import METRICS, Metric
from sse_app.views.metrics import metrics

from ..support.patience import PATIENCE
from ..support.servers import ROOT, Daphne, eventually
from ..support.sleepers import MORE_THAN_THE_SYSTEM_KEEPS, connect, run

LOCAL = {"METRICS_ADDRESSES": ["127.0.0.1"]}
Sums = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(daphne: Daphne) -> str:
    answer = httpx.get(f"{daphne.url}/events/metrics/", timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store, private"
    assert answer.headers["content-type"].startswith("text/plain")
    return answer.text


def sums(text: str) -> Sums:
    """Each series, summed over the processes."""
    found: Sums = defaultdict(float)
    for family in plain_text(text):
        for sample in family.samples:
            labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "process"))
            found[sample.name, labels] += sample.value
    return found


def of(daphne: Daphne, name: str, **labels: str) -> float:
    return sums(scrape(daphne))[name, tuple(sorted(labels.items()))]


def until(daphne: Daphne, expected: float, name: str, **labels: str) -> None:
    eventually(lambda: of(daphne, name, **labels) == expected, f"{name}: {scrape(daphne)}")


@pytest.fixture
def daphne(make_daphne: Callable[..., Daphne]) -> Daphne:
    return make_daphne(HEARTBEAT=0.4, STALL_SECONDS=3, **LOCAL)


# --- what it says ---


def test_every_metric_is_there_in_a_valid_format_with_its_process(daphne: Daphne) -> None:
    daphne.publish("orders", "n", "1")
    text = scrape(daphne)
    kinds = {family.name: family.type for family in plain_text(text)}
    assert kinds == {metric.name: metric.kind for metric in METRICS}
    for family in plain_text(text):
        assert {sample.labels.get("process") for sample in family.samples} <= {
            run(
                daphne,
                "from sse_app.runtime.telemetry import process_name\nresult = process_name()",
            )
        }
    accepted = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = httpx.get(f"{daphne.url}/events/metrics/", headers=accepted, timeout=PATIENCE)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert {family.name for family in open_metrics(answer.text)} == kinds.keys()


async def test_what_happens_to_streams_and_events_is_counted(daphne: Daphne) -> None:
    async with daphne.stream("group=orders") as stream:
        await stream.next()
        for how in ("publish", "publish-passing", "apublish"):
            await asyncio.to_thread(daphne.publish, "orders", "n", "x" * 1000, how)
            await stream.next()
        text = await asyncio.to_thread(scrape, daphne)
    found = sums(text)
    assert found["sse_app_streams", (("state", "live"),)] == 1
    assert found["sse_app_streams_opened_total", ()] == 1
    published = "sse_app_events_published_total"
    assert found[published, (("durable", "true"), ("log", "DatabaseEventLog"))] == 2
    assert found[published, (("durable", "false"), ("log", "none"))] == 1
    assert found["sse_app_events_delivered_total", ()] == 3
    assert found["sse_app_sent_bytes_total", ()] > 3000
    assert found["sse_app_publish_seconds_count", ()] == 2
    assert found["sse_app_publish_seconds_sum", ()] > 0
    assert 1 <= found["sse_app_delivery_seconds_count", ()] <= 3
    assert found["sse_app_delivery_seconds_sum", ()] > 0
    assert found["sse_app_hub_up", ()] == 1
    assert found["sse_app_layer_up", ()] == 1
    assert found["sse_app_others_up", ()] == 1
    await asyncio.to_thread(until, daphne, 1, "sse_app_streams_closed_total", reason="disconnect")
    assert await asyncio.to_thread(of, daphne, "sse_app_hub_up") == 0


def test_buckets_count_what_is_below(daphne: Daphne) -> None:
    for _ in range(5):
        daphne.publish("orders", "n", "1")
    (family,) = (f for f in plain_text(scrape(daphne)) if f.name == "sse_app_publish_seconds")
    buckets = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 5


async def test_a_transaction_is_measured_when_the_log_numbers_its_events(daphne: Daphne) -> None:
    run(
        daphne,
        "from django.db import transaction\n"
        "from sse_app import publish\n"
        "with transaction.atomic():\n"
        "    publish('orders', 'n', '1')\n"
        "    publish('orders', 'n', '2')\n",
    )
    assert of(daphne, "sse_app_publish_seconds_count") >= 1
    labels = {"durable": "true", "log": "DatabaseEventLog"}
    assert of(daphne, "sse_app_events_published_total", **labels) == 2


def test_what_is_refused_is_counted_by_its_reason(daphne: Daphne) -> None:
    for query, reason in (
        ("group=secret", "403"),
        ("", "400"),
        ("ticket=unknown", "expired"),
    ):
        httpx.get(f"{daphne.url}/events/?{query}", timeout=PATIENCE)
        assert of(daphne, "sse_app_refusals_total", reason=reason) == 1
    run(daphne, "from sse_app.delivery.hub import Hub\nHub.draining = True")
    httpx.get(f"{daphne.url}/events/?group=orders", timeout=PATIENCE)
    assert of(daphne, "sse_app_refusals_total", reason="shutdown") == 1
    assert of(daphne, "sse_app_draining") == 1
    httpx.head(f"{daphne.url}/events/?group=orders", timeout=PATIENCE)
    assert sum(n for (name, _), n in sums(scrape(daphne)).items() if "refusals" in name) == 4


async def test_resets_are_counted_by_their_reason(daphne: Daphne) -> None:
    async with daphne.stream("group=orders", {"Last-Event-ID": "nonsense"}) as stream:
        assert [event.name for event in await stream.take(2)] == ["sse.open", "sse.reset"]
        assert await asyncio.to_thread(of, daphne, "sse_app_resets_total", reason="unknown") == 1


async def test_what_the_layer_lost_is_a_heal(daphne: Daphne) -> None:
    async with daphne.stream("group=orders") as stream:
        await stream.next()
        daphne.shell("from sse_app import publish; publish('orders', 'n', 'elsewhere')")
        assert (await stream.next()).data == "elsewhere"
        assert await asyncio.to_thread(of, daphne, "sse_app_heals_total") >= 1


@pytest.mark.slow
def test_a_reader_that_takes_nothing_is_seen_to_lag_and_let_go(daphne: Daphne) -> None:
    sleeper = connect(daphne)
    run(daphne, MORE_THAN_THE_SYSTEM_KEEPS)
    run(
        daphne,
        "from sse_app import publish\n"
        "for n in range(3):\n"
        "    publish('orders', 'typing', n, durable=False, key='ann')\n",
    )
    until(daphne, 1, "sse_app_streams", state="lagging")
    assert of(daphne, "sse_app_readers_lagged_total") == 1
    assert of(daphne, "sse_app_queue_bytes") > 0
    assert of(daphne, "sse_app_lag_events") > 0
    until(daphne, 2, "sse_app_events_superseded_total")
    until(daphne, 1, "sse_app_readers_stalled_total")
    until(daphne, 1, "sse_app_streams_closed_total", reason="stalled")
    sleeper.close()


@pytest.mark.slow
async def test_a_reader_that_reads_again_is_seen_to_catch_up(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(**LOCAL)
    sleeper = connect(daphne)
    run(daphne, MORE_THAN_THE_SYSTEM_KEEPS)
    until(daphne, 1, "sse_app_readers_lagged_total")
    sleeper.setblocking(False)

    def read() -> bool:
        try:
            while sleeper.recv(1 << 20):
                pass
        except BlockingIOError:
            pass
        return of(daphne, "sse_app_readers_caught_up_total") == 1

    await asyncio.to_thread(eventually, read)
    sleeper.close()


@pytest.mark.slow
def test_a_loop_that_is_busy_is_seen_to_lag(daphne: Daphne) -> None:
    run(
        daphne,
        "from sse_app.operations import processes\n"
        "reporter = processes.reporter\n"
        "real = reporter._schedule\n"
        "def plan(seconds):\n"
        "    real(seconds)\n"
        "    reporter._due -= 100  # As if the loop had been busy for so long.\n"
        "reporter._schedule = plan",
    )
    eventually(lambda: of(daphne, "sse_app_loop_lag_seconds") > 99)


# --- over several processes ---


def steady(text: str) -> Sums:
    """What does not change from one scrape to the next by itself."""
    moving = ("loop_lag", "report_age", "delivery", "publish_seconds_sum", "draining")
    return {
        key: value
        for key, value in sums(text).items()
        if value and not any(part in key[0] for part in moving)
    }


@pytest.mark.slow
async def test_whichever_process_is_scraped_the_sums_are_those_of_all(
    make_daphne: Callable[..., Daphne],
) -> None:
    one, two = make_daphne(**LOCAL), make_daphne(**LOCAL)
    streams = []
    async with AsyncExitStack() as stack:
        for server in (one, two, two):
            stream = await stack.enter_async_context(server.stream("group=orders"))
            await stream.next()
            streams.append(stream)
        for server in (one, two):
            for _ in range(3):
                await asyncio.to_thread(server.publish, "orders", "n", "1")
        for stream in streams:
            await stream.take(6)
        await asyncio.to_thread(httpx.get, f"{one.url}/events/?group=secret", timeout=PATIENCE)

        def alike() -> Any:
            first, second = steady(scrape(one)), steady(scrape(two))
            return first == second and first

        found = await asyncio.to_thread(eventually, alike)
        assert len(names(one)) == 2
        assert names(one) == names(two)
    labels = (("durable", "true"), ("log", "DatabaseEventLog"))
    assert found["sse_app_events_published_total", labels] == 6
    assert found["sse_app_events_delivered_total", ()] == 18
    assert found["sse_app_streams", (("state", "live"),)] == 3
    assert found["sse_app_streams_opened_total", ()] == 3
    assert found["sse_app_refusals_total", (("reason", "403"),)] == 1
    assert found["sse_app_publish_seconds_count", ()] == 6


def names(daphne: Daphne) -> set[str]:
    return {
        sample.labels["process"]
        for family in plain_text(scrape(daphne))
        for sample in family.samples
        if sample.name == "sse_app_process_info"
    }


@pytest.mark.slow
def test_a_process_that_stopped_is_gone_at_once_and_a_killed_one_with_its_age(
    make_daphne: Callable[..., Daphne],
) -> None:
    one, two, three = (make_daphne(**LOCAL) for _ in range(3))
    eventually(lambda: len(names(one)) == 3)
    two.stop()
    assert len(names(one)) == 2
    three.stop(signal.SIGKILL)
    assert len(names(one)) == 2
    run(one, "from sse_app.operations import processes\nprocesses.ALIVE_SECONDS = 2")
    eventually(lambda: len(names(one)) == 1)


@pytest.mark.slow
def test_without_its_table_a_process_tells_of_itself(daphne: Daphne) -> None:
    run(
        daphne,
        "from django.db import connection\n"
        "connection.cursor().execute('ALTER TABLE sse_app_serverprocess RENAME TO away')",
    )
    daphne.publish("orders", "n", "1")
    found = sums(scrape(daphne))
    assert found["sse_app_others_up", ()] == 0
    assert found["sse_app_publish_seconds_count", ()] == 1


def test_a_registry_of_ones_own_can_tell_them_without_asking_the_database_at_first() -> None:
    from prometheus_client import CollectorRegistry

    from sse_app.metrics import Collector

    registry = CollectorRegistry(auto_describe=True)
    registry.register(Collector())  # In a test without a database, where a query would fail.


@pytest.mark.django_db
def test_what_another_version_reports_harms_nobody() -> None:
    from django.utils import timezone

    from sse_app.metrics import exposition
    from sse_app.models import ServerProcess

    now = timezone.now()
    for name, report in (
        ("empty", {}),
        ("other", {"counts": {"publish_seconds.le.7": 1}, "health": {}, "open": {"new": 1}}),
    ):
        ServerProcess.objects.create(
            name=name, host="h", pid=1, started_at=now, seen_at=now, report=report
        )
    body, _ = exposition("")
    found = {
        (sample.name, sample.labels["process"])
        for family in plain_text(body.decode())
        for sample in family.samples
    }
    assert ("sse_app_process_info", "empty") in found
    assert ("sse_app_streams", "other") in found
    assert ("sse_app_publish_seconds_count", "other") not in found


# --- what is said of it ---


def test_the_documented_metrics_are_those_there_are() -> None:
    section = (
        (ROOT / "docs" / "operations" / "operating.md")
        .read_text()
        .split("\n## Metrics")[1]
        .split("\n## ")[0]
    )
    rows = re.findall(r"^\| `(sse_app_\w+)` \| (\w+) \| (.*?) \| .+ \|$", section, re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    assert documented == {metric.series: (metric.kind, metric.labels) for metric in METRICS}
    known = {name for metric in METRICS for name in queried(metric)}
    assert set(re.findall(r"\bsse_app_\w+\b", section)) - {"sse_app_token"} <= known


def queried(metric: Metric) -> set[str]:
    """The names by which a metric can be queried."""
    if metric.kind == "histogram":
        return {metric.name, *(f"{metric.name}_{end}" for end in ("bucket", "sum", "count"))}
    return {metric.series}


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    dashboard = json.loads((ROOT / "docs" / "operations" / "grafana.json").read_text())
    assert dashboard["schemaVersion"] >= 42
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    used = set(re.findall(r"\bsse_app_\w+\b", " ".join(queries)))
    assert used <= {name for metric in METRICS for name in queried(metric)}
    for metric in METRICS:
        assert used & queried(metric), metric.name
    datasource = {"type": "prometheus", "uid": "${datasource}"}
    assert all(panel["datasource"] == datasource for panel in panels)
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {
        "datasource",
        "process",
    }
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    by_label = re.findall(r"by \(([\w, ]+)\) \((?:rate\()?(sse_app_\w+)", " ".join(queries))
    labels = {name: {"process", "le", *m.labels} for m in METRICS for name in queried(m)}
    for names_of, name in by_label:
        assert set(names_of.split(", ")) <= labels[name], name


def test_no_two_panels_lie_on_each_other() -> None:
    dashboard = json.loads((ROOT / "docs" / "operations" / "grafana.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


# --- to whom ---

URL = "/events/metrics/"


def user(**fields: Any) -> User:
    permission = fields.pop("permission", False)
    made = User.objects.create_user("ann", password="x", **fields)
    if permission:
        made.user_permissions.add(Permission.objects.get(codename="view_serverprocess"))
    return made


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (None, 403),
        ({}, 403),
        ({"is_staff": True}, 403),
        ({"permission": True}, 403),
        ({"is_staff": True, "permission": True}, 200),
        ({"is_staff": True, "is_superuser": True}, 200),
        ({"is_staff": True, "is_superuser": True, "is_active": False}, 403),
    ],
)
def test_staff_with_the_permission_may_read_them(
    client: Client, fields: dict[str, Any] | None, status: int
) -> None:
    if fields is not None:
        client.force_login(user(**fields))
    answer = client.get(URL)
    assert answer.status_code == status
    assert answer["Cache-Control"] == "no-store, private"
    assert client.post(URL).status_code == 405


@pytest.mark.django_db
@pytest.mark.parametrize(("rights", "status"), [({"metrics": True}, 200), ({"listen": ["*"]}, 403)])
def test_a_token_that_may_reads_them(client: Client, rights: dict[str, Any], status: int) -> None:
    from datetime import timedelta

    token, text = create_token("prometheus", lifetime=timedelta(days=1), **rights)
    headers = {"Authorization": f"Bearer {text}"}
    assert client.get(URL, headers=headers).status_code == status
    assert client.get(URL, headers={"Authorization": f"Bearer {text}x"}).status_code == 403
    revoke_token(token)
    assert client.get(URL, headers=headers).status_code == 403


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("peer", "headers", "settings", "status"),
    [
        ("10.1.2.3", {}, {}, 403),
        ("10.1.2.3", {}, {"METRICS_ADDRESSES": ["10.0.0.0/8"]}, 200),
        ("11.1.2.3", {}, {"METRICS_ADDRESSES": ["10.0.0.0/8"]}, 403),
        ("", {}, {"METRICS_ADDRESSES": ["10.0.0.0/8"]}, 403),
        ("::1", {}, {"METRICS_ADDRESSES": ["::1"]}, 200),
        # What a stranger says of himself.
        ("11.1.2.3", {"X-Forwarded-For": "10.1.1.1"}, {"METRICS_ADDRESSES": ["10.0.0.0/8"]}, 403),
        # Behind a proxy that nobody told us of, everybody has its address.
        ("10.1.2.3", {"X-Forwarded-For": "11.1.1.1"}, {"METRICS_ADDRESSES": ["10.0.0.0/8"]}, 403),
        (
            "10.1.2.3",
            {"X-Forwarded-For": "11.1.1.1"},
            {"METRICS_ADDRESSES": ["10.0.0.0/8"], "TRUSTED_PROXIES": ["10.1.2.3"]},
            403,
        ),
        (
            "10.1.2.3",
            {"X-Forwarded-For": "10.1.1.1, 11.1.1.1"},
            {"METRICS_ADDRESSES": ["10.0.0.0/8"], "TRUSTED_PROXIES": ["10.1.2.3"]},
            403,
        ),
        (
            "127.0.0.1",
            {"X-Forwarded-For": "11.1.1.1, 10.1.1.1"},
            {"METRICS_ADDRESSES": ["10.0.0.0/8"], "TRUSTED_PROXIES": ["127.0.0.1"]},
            200,
        ),
    ],
)
async def test_addresses_are_those_of_clients(
    peer: str, headers: dict[str, str], settings: dict[str, Any], status: int
) -> None:
    scope = {
        "client": [peer, 1] if peer else None,
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    with override_settings(SSE_APP=settings):
        assert addresses.may_read_metrics(scope) is (status == 200)


def test_over_the_wire_it_is_closed_by_default(make_daphne: Callable[..., Daphne]) -> None:
    closed, opened = make_daphne(), make_daphne(**LOCAL)
    answer = httpx.get(f"{closed.url}{URL}", timeout=PATIENCE)
    assert (answer.status_code, answer.headers["cache-control"]) == (403, "no-store, private")
    assert httpx.get(f"{opened.url}{URL}", timeout=PATIENCE).status_code == 200
    forwarded = {"X-Forwarded-For": "127.0.0.1"}
    assert httpx.get(f"{opened.url}{URL}", headers=forwarded, timeout=PATIENCE).status_code == 403
    text = closed.manage("sse_token", "create", "prometheus", "--metrics").strip()
    bearer = {"Authorization": f"Bearer {text}"}
    assert httpx.get(f"{closed.url}{URL}", headers=bearer, timeout=PATIENCE).status_code == 200
    assert "reads metrics" in closed.manage("sse_token", "list")


def test_where_nobody_can_say_who_asks_they_are_asked_for_later(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(request: object) -> bool:
        raise OperationalError("on purpose")

    monkeypatch.setattr("sse_app.views.metrics._is_permitted", away)
    assert client.get(URL).status_code == 503


@pytest.mark.django_db
def test_without_the_package_it_says_what_to_install(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "sse_app.metrics", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = admin_client.get(URL)
    assert answer.status_code == 501
    assert 'pip install "sse-app[metrics]"' in answer.text


@pytest.mark.parametrize("more", [{}, {"is_staff": True}])
def test_a_user_of_a_model_without_permissions_may_not_read_them(more: Any) -> None:
    request = RequestFactory().get("/events/metrics/")
    request.user = SimpleNamespace(is_active=True, **more)  # type: ignore[assignment]
    assert metrics(request).status_code == 403
