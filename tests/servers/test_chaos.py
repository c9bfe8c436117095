"""Chaos in its short form, and what its layer and its verdict are worth."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.layers import channel_layers, get_channel_layer

from sse_app import publish

from ..chaos.__main__ import parse, plans, table
from ..chaos.clients import Client, Reset
from ..chaos.parts import LOGS, Notes
from ..chaos.run import run
from ..chaos.stores import Fork
from ..chaos.verdict import Verdict, checks_outlived, judge, latest_delivery
from ..chaos.world import Plan
from ..support.layers import ChaosLayer
from ..support.patience import PATIENCE
from ..support.subscribers import Reader

SEED = 90


@pytest.mark.slow
@pytest.mark.parametrize("log", LOGS)
async def test_nothing_is_lost_repeated_or_out_of_order_whatever_is_killed(
    log: str, tmp_path: Path
) -> None:
    plan = Plan(log, SEED, kills=4, restarts=2, freezes=0, publisher_kills=2, servers=2)
    report = await run(plan, tmp_path)
    assert report.good, table([report])
    assert report.figures["connections"] > plan.clients
    assert report.figures["acknowledged"] >= plan.events


@pytest.mark.slow
@pytest.mark.parametrize("log", LOGS)
async def test_nothing_is_lost_silently_when_the_log_goes_back(log: str, tmp_path: Path) -> None:
    hurts = {"kills": 2, "restarts": 0, "freezes": 0, "publisher_kills": 1, "silences": 1}
    plan = Plan(log, SEED, **hurts, forks=3, clients=20, servers=2)
    report = await run(plan, tmp_path)
    assert report.good, table([report])
    assert report.figures["told"] > 0


@pytest.mark.slow
async def test_with_half_of_the_messages_dropped_none_is_later_than_the_check(
    tmp_path: Path,
) -> None:
    plan = Plan.half_dropped(SEED, clients=10, servers=2, events=300, check_interval=1.0)
    report = await run(plan, tmp_path)
    assert report.good, table([report])
    assert report.figures["by a check"] > 0
    assert report.figures["later than a check"] == 0, table([report])


@pytest.fixture
def half_dropped(settings: Any, valkey: str) -> Iterator[None]:
    """A layer that drops half of its messages, and no check of the heads by itself."""
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "tests.support.layers.ChaosLayer",
            "CONFIG": {"hosts": [valkey], "drop": 0.5, "seed": SEED},
        }
    }
    never = {"CHECK_INTERVAL": 3600, "SWEEP_INTERVAL": 3600}
    settings.SSE_APP = {"EVENT_LOG": "sse_app.eventlog.MemoryEventLog", **never}
    yield
    channel_layers.backends.clear()


@pytest.mark.usefixtures("half_dropped")
async def test_one_check_of_the_heads_brings_what_the_layer_dropped() -> None:
    reader = await Reader().start("g")
    expected = []
    for n in range(50):
        expected += [f"{n}.{part}" for part in range(3)]
        for data in expected[-3:]:
            publish("g", "n", data)
        await reader.hub.check()
        await reader.sink.until(expected[-1])
    assert reader.sink.seen == expected
    assert 10 < get_channel_layer().dropped < 40
    await reader.stop()
    await get_channel_layer().flush()


# --- the layer ---


async def sent_through(valkey: str, count: int, **shares: float) -> list[int]:
    """Send numbers through a bad layer, and an end through the same, now good; what arrives."""
    layer = ChaosLayer(hosts=[valkey], seed=SEED, **shares)
    channel = await layer.new_channel()
    await layer.group_add("numbers", channel)
    for n in range(count):
        await layer.group_send("numbers", {"n": n})
    await asyncio.gather(*layer._sending)
    layer.drop = layer.double = layer.late = 0.0
    await layer.group_send("numbers", {"n": -1})
    arrived = []
    while (message := await asyncio.wait_for(layer.receive(channel), PATIENCE))["n"] >= 0:
        arrived.append(message["n"])
    await layer.flush()
    return arrived


async def test_the_layer_drops(valkey: str) -> None:
    assert await sent_through(valkey, 20, drop=1.0) == []
    some = await sent_through(valkey, 200, drop=0.5)
    assert some == sorted(set(some))
    assert 60 < len(some) < 140


async def test_the_layer_doubles(valkey: str) -> None:
    assert Counter(await sent_through(valkey, 20, double=1.0)) == Counter(list(range(20)) * 2)


async def test_the_layer_reorders(valkey: str) -> None:
    arrived = await sent_through(valkey, 50, late=0.5)
    assert sorted(arrived) == list(range(50))
    assert arrived != list(range(50))


# --- the verdict ---

LOG = {"g": [(1, "a:1"), (2, "b:1"), (3, "a:2")]}


def client_with(data: str, at: float = 0.0) -> Client:
    """Return a client that opened at 0 and received `data` at `at`; "!" is a reset."""
    client = Client(0, ["g"], [1], SEED, late=False)
    received = client.received["g"]
    for item in data.split():
        if item == "!":
            received.resets.append(Reset(len(received.data), at, 0.0, "epoch"))
        else:
            received.data.append(item)
            received.at.append(at)
    client.opened.append(0.0)
    client.ports_used.append(1)
    return client


def notes_of(times: dict[str, float], **more: Any) -> Notes:
    """Return notes of events of one group that were acknowledged as soon as they were published."""
    return Notes({"g": set(times)}, begun=dict(times), at=times, **more)


def counts(verdict: Verdict) -> dict[str, int]:
    """Return what a verdict counts, without the zeros."""
    assert bool(verdict.faults) == any(verdict.counts.values())
    return {what: count for what, count in verdict.counts.items() if count}


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        ("a:1 b:1 a:2", {}),
        ("a:1 b:1", {"silent": 1}),
        ("a:1 a:2", {"untold": 1}),
        ("a:1 b:1 b:1 a:2", {"untold": 1, "repeated": 1}),
        ("b:1 a:1 a:2", {"untold": 2, "disordered": 1}),
        ("a:1 b:1 a:2 a:3", {"untold": 1, "not in the log": 1}),
        ("a:1 b:1 ! a:2", {"needless resets": 1}),
    ],
)
def test_the_verdict_finds_what_is_wrong_at_a_client(data: str, wrong: dict[str, int]) -> None:
    notes = notes_of({"a:1": 1.0, "a:2": 2.0})
    assert counts(judge(LOG, notes, [client_with(data, at=3.0)])) == wrong


@pytest.mark.parametrize(
    ("log", "wrong"),
    [
        ([(1, "a:1"), (2, "a:2"), (3, "a:1")], {"repeated": 2, "disordered": 2}),
        ([(1, "a:2"), (2, "a:1")], {"disordered": 2}),
        ([(1, "a:1"), (3, "a:2")], {"missing": 1}),
        ([(1, "a:1"), (2, "a:2"), (3, "no:1")], {"rolled back, yet there": 1}),
        ([(1, "a:1")], {"lost by the log": 1, "silent": 1}),
    ],
)
def test_the_verdict_finds_what_is_wrong_in_the_log(log: Any, wrong: dict[str, int]) -> None:
    notes = notes_of({"a:1": 1.0, "a:2": 2.0}, rolled_back={"no:1"})
    client = client_with(" ".join(data for _, data in log), at=3.0)
    assert counts(judge({"g": log}, notes, [client])) == wrong


#: The log had a:1, a:2 and a:3, went back behind a:2, and has grown again.
WENT_BACK = {"g": [(1, "a:1"), (2, "b:1"), (3, "b:2"), (4, "b:3")]}
TIMES = {"a:1": 1.0, "a:2": 3.0, "a:3": 4.0, "b:1": 6.0, "b:2": 7.0, "b:3": 8.0}
FORK = Fork(2.0, 5.0, 5.0, {"g": [(1, "a:1"), (2, "a:2"), (3, "a:3")]})


@pytest.mark.parametrize(
    ("data", "wrong", "told", "unknowable"),
    [
        ("a:1 a:2 a:3 ! b:3", {}, 2, 0),
        ("a:1 a:2 a:3 b:3", {"silent": 2, "untold": 1}, 0, 0),
        ("a:1 a:2 a:3 b:2 ! b:3", {"silent": 1, "untold": 1}, 0, 0),
        ("a:1 a:2 a:3 ! b:1 b:3", {"untold": 1}, 0, 0),
        ("a:1 a:3 ! b:1 b:2 b:3", {"silent": 1, "untold": 1}, 0, 0),
        ("a:1 a:2 ! b:1 b:2 b:3", {}, 1, 0),
        ("a:1 b:1 b:2 b:3", {}, 0, 2),
        ("a:1 b:1 ! b:2 b:3", {}, 2, 0),
        ("a:1 a:2 a:3 !", {}, 3, 0),
    ],
)
def test_the_verdict_knows_what_a_client_was_told_when_the_log_went_back(
    data: str, wrong: dict[str, int], told: int, unknowable: int
) -> None:
    verdict = judge(WENT_BACK, notes_of(TIMES), [client_with(data, at=9.0)], [FORK])
    assert counts(verdict) == wrong
    if not wrong:
        assert (verdict.told, verdict.unknowable) == (told, unknowable)
        assert verdict.delivered + told + unknowable == len(TIMES)


#: Two events that the copy held without an offset: each history numbered them in its own order.
TWO_ORDERS = {"g": [(1, "a:1"), (2, "b:1"), (3, "c:1"), (4, "d:1")]}
OTHER_ORDER = Fork(2.0, 5.0, 5.0, {"g": [(1, "a:1"), (2, "c:1"), (3, "b:1"), (4, "e:1")]})


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        ("a:1 c:1 b:1 e:1 ! d:1", {}),
        ("a:1 c:1 ! b:1 c:1 d:1", {}),
        ("a:1 b:1 c:1 d:1", {}),
        ("a:1 c:1 b:1 c:1 d:1", {"repeated": 1, "untold": 1}),
        ("a:1 d:1 b:1", {"untold": 2, "disordered": 1}),
    ],
)
def test_after_a_reset_a_client_may_get_events_in_the_order_of_the_other_history(
    data: str, wrong: dict[str, int]
) -> None:
    client = client_with(data, at=9.0)
    assert counts(judge(TWO_ORDERS, notes_of({}), [client], [OTHER_ORDER])) == wrong


def test_what_one_stream_found_out_every_client_must_be_told() -> None:
    clients = [client_with("a:1 a:2 a:3 ! b:1 b:2 b:3", at=9.0)]
    clients.append(client_with("a:1 b:1 b:2 b:3", at=9.0))
    verdict = judge(WENT_BACK, notes_of(TIMES), clients, [FORK])
    assert counts(verdict) == {"silent": 2}


def test_the_time_until_a_client_is_told_begins_when_it_could_know() -> None:
    late = client_with("a:1 a:2 ! b:1 b:2 b:3", at=9.0)
    assert judge(WENT_BACK, notes_of(TIMES), [late], [FORK]).until_told == 4.0


def test_the_latest_delivery_counts_from_the_acknowledgement_for_who_was_connected() -> None:
    notes = Notes(at={"a:1": 4.0, "a:2": -1.0, "a:3": 1.0}, left={"a:3"})
    assert latest_delivery(notes, [client_with("a:1 a:2 a:3 x:1", at=5.0)]) == 1.0


def test_deliveries_are_counted_by_the_checks_that_had_seen_the_event(tmp_path: Path) -> None:
    facts = tmp_path / "facts"
    readings = [[1.0, {"g": 1}], [2.0, {"g": 2}], [9.0, {"g": 3}]]
    facts.write_text("\n".join(map(json.dumps, readings)))
    clients = [client_with("a:1 b:1 a:2", at=3.0)]
    assert checks_outlived(LOG, clients, {1: facts}) == [1, 1, 1]


def test_the_command_has_a_plan_for_each_log_and_one_with_half_of_the_messages_dropped() -> None:
    made = plans(parse(["--kills", "7", "--restarts", "3", "--seed", "5"]))
    assert [plan.log for plan in made] == ["sqlite", "postgresql", "redis", "postgresql"]
    assert {plan.seed for plan in made} == {5}
    assert [plan.kills for plan in made] == [7, 7, 7, 0]
    assert [plan.forks for plan in made] == [2, 2, 2, 0]
    assert [plan.session_freezes for plan in made] == [0, 1, 0, 0]
    assert made[-1].drop == 0.5
