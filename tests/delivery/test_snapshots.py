"""`@snapshot`: the first state of a stream, over a real Daphne."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import httpx
import pytest

from project.models import Order
from sse_app import publish, snapshot
from sse_app.delivery import snapshots
from sse_app.delivery.hub import get_hub
from sse_app.delivery.recent import RECENT_EVENTS
from sse_app.delivery.replay import STATE, StartRequest, find_start
from sse_app.delivery.snapshots import (
    SharedSnapshots,
    SnapshotFailed,
    State,
    source_of,
)
from sse_app.delivery.subscriptions import Subscription
from sse_app.eventlog import MemoryEventLog
from sse_app.protocol.cursors import LOST, START, Cursor, Position, encode_cursor
from sse_app.runtime.threads import CALLS_AT_ONCE

from ..support.parser import Parsed
from ..support.patience import PATIENCE
from ..support.servers import Daphne, StreamReader, eventually
from ..support.sleepers import run
from ..support.streams import raw
from ..support.subscribers import ListSink, Reader
from ..support.visitors import Visitor

#: `SNAPSHOT_ARRIVALS=200 SNAPSHOT_WRITES=500` in the environment asks for the figure; the first
#: also says how many wait for one read.
ARRIVALS = int(os.environ.get("SNAPSHOT_ARRIVALS", "12"))
WRITES = int(os.environ.get("SNAPSHOT_WRITES", "100"))
ROWS = 10


def with_states(server: Daphne) -> Daphne:
    run(server, "import tests.support.states\nresult = None")
    return server


@pytest.fixture
def site(shared_daphne: Daphne) -> Daphne:
    return with_states(shared_daphne)


def calls(server: Daphne, group: str) -> Any:
    return run(server, f"from tests.support.states import calls\nresult = calls[{group!r}]")


def open_gate(server: Daphne) -> None:
    """Let the states of `orders.slow.*` be read."""
    run(server, "from tests.support.states import gate\ngate.set()\nresult = None")


def close_gate(server: Daphne) -> None:
    run(server, "from tests.support.states import gate\ngate.clear()\nresult = None")


def begin_log_anew(server: Daphne, group: str) -> None:
    code = f"from sse_app.eventlog import event_log\nresult = event_log().renew_epoch([{group!r}])"
    assert run(server, code) == 1


def place(id: str) -> tuple[str, int]:
    """The epoch and offset in an id of one group."""
    found = Cursor.parse(id)
    assert found is not None
    (position,) = found.positions.values()
    return position.epoch, position.offset


async def first_state(stream: StreamReader) -> Parsed:
    opened, state = await stream.take(2)
    assert (opened.name, state.name) == ("sse.open", "sse.snapshot")
    return state


async def test_a_new_stream_gets_the_state_and_then_what_came_after_its_id(site: Daphne) -> None:
    site.publish("orders.now.a", "n", "before")
    async with site.stream("group=orders.now.a") as stream:
        state = await first_state(stream)
        assert state.json()["group"] == "orders.now.a"
        assert state.json()["data"]["of"] == "orders.now.a"
        assert place(state.id)[1] == 1
        site.publish("orders.now.a", "n", "after")
        assert (await stream.next()).data == "after"


async def test_what_comes_while_the_state_is_read_is_told_after_it(site: Daphne) -> None:
    async with site.stream("group=orders.now.during") as stream:
        state = await first_state(stream)
        site.publish("orders.now.during", "n", "last")
        assert [event.data for event in await stream.take(2)] == ["1", "last"]
    assert state.json()["data"] == 1


async def test_who_has_a_place_gets_no_state(site: Daphne) -> None:
    group = "orders.now.b"
    site.publish(group, "n", "1")
    async with site.stream(f"group={group}") as stream:
        state = await first_state(stream)
    site.publish(group, "n", "2")
    before = calls(site, group)
    for query in (f"last_event_id={state.id}", "from=-1"):
        async with site.stream(f"group={group}&{query}") as stream:
            opened, event = await stream.take(2)
            assert (opened.name, event.data) == ("sse.open", "2")
    assert calls(site, group) == before


async def test_a_group_that_the_cursor_does_not_mention_gets_its_state(site: Daphne) -> None:
    site.publish("orders.now.c", "n", "1")
    async with site.stream("group=orders.now.c") as stream:
        known = (await first_state(stream)).id
    site.publish("orders.now.c", "n", "2")
    query = f"group=orders.now.c&group=orders.now.d&last_event_id={known}"
    async with site.stream(query) as stream:
        _, state, event = await stream.take(3)
    assert (state.name, state.json()["group"]) == ("sse.snapshot", "orders.now.d")
    assert event.data == "2"


async def test_each_of_several_groups_has_its_state_and_its_label(site: Daphne) -> None:
    query = "group=orders.now.e&group=import&group=orders.async"
    async with site.stream(query) as stream, site.stream(f"{query}&label=1") as labelled:
        _, *states = await stream.take(3)
        site.publish("import", "n", "live")
        assert (await stream.next()).data == "live"
        received = await raw(labelled, b"data: live\n")
    assert [state.json()["group"] for state in states] == ["orders.now.e", "orders.async"]
    assert states[1].json()["data"] == [1, 2]
    assert [line for line in received.split(b"\n") if line.startswith(b"group:")] == [
        *(b"group: orders.now.e", b"group: orders.async", b"group: import"),
    ]


async def test_a_filtered_stream_gets_the_state_too(site: Daphne) -> None:
    async with site.stream("group=orders.now.f&event=wanted") as stream:
        await first_state(stream)
        site.publish("orders.now.f", "other", "1")
        site.publish("orders.now.f", "wanted", "2")
        assert (await stream.next()).data == "2"


async def test_who_is_reset_gets_the_state_after_the_reset(site: Daphne) -> None:
    site.publish("orders.now.g", "n", "1")
    async with site.stream("group=orders.now.g&last_event_id=nonsense") as stream:
        _, reset, state = await stream.take(3)
        site.publish("orders.now.g", "n", "2")
        assert (await stream.next()).data == "2"
    assert (reset.name, state.name) == ("sse.reset", "sse.snapshot")


async def test_a_live_stream_whose_log_begins_anew_gets_the_state_again(site: Daphne) -> None:
    group = "orders.now.h"
    # More than a cohort needs, so that it is dissolved.
    streams = [site.stream(f"group={group}") for _ in range(10)]
    readers = [await stream.__aenter__() for stream in streams]
    try:
        site.publish(group, "n", "1")
        for reader in readers:
            await first_state(reader)
            assert (await reader.next()).data == "1"
        begin_log_anew(site, group)
        for reader in readers:
            reset, state = await reader.take(2)
            assert (reset.name, reset.json()["reason"]) == ("sse.reset", "epoch")
            assert state.name == "sse.snapshot"
            assert state.json()["data"]["call"] > 1
        site.publish(group, "n", "2")
        assert [(await reader.next()).data for reader in readers] == ["2"] * 10
    finally:
        for stream in streams:
            await stream.__aexit__(None, None, None)


FLOOD_AND_PRUNE = """
from sse_app import publish_many
from sse_app.eventlog import event_log
from sse_app.delivery.recent import RECENT_EVENTS

publish_many([("orders.slow.a", "n", n) for n in range(RECENT_EVENTS + 50)])
result = event_log().prune()
"""


async def test_a_kept_state_that_nothing_goes_on_from_is_read_again(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = with_states(make_daphne(HEARTBEAT=0.4, RETENTION_EVENTS=1))
    open_gate(daphne)
    daphne.publish("orders.slow.a", "n", "before")
    async with daphne.stream("group=orders.slow.a") as early:
        await first_state(early)
        # More than a process remembers; then only the last is left in the log.
        run(daphne, FLOOD_AND_PRUNE)
        while int((await early.next()).data) < RECENT_EVENTS + 49:
            pass
        async with daphne.stream("group=orders.slow.a") as late:
            await first_state(late)
            reset, state = await late.take(2)
            daphne.publish("orders.slow.a", "n", "live")
            assert (await late.next()).data == "live"
    assert (reset.json()["reason"], state.name) == ("trimmed", "sse.snapshot")
    assert calls(daphne, "orders.slow.a") == 2


async def test_who_loses_the_connection_before_the_state_gets_it_when_it_comes_back(
    site: Daphne,
) -> None:
    """The id of `sse.open` must not say that the state is known."""
    close_gate(site)
    lost = [("last_event_id=bad", "sse.reset"), ("", "sse.open")]
    ids = []
    for query, last in lost:
        async with site.stream(f"group=orders.slow.b&{query}") as stream:
            while (event := await stream.next()).name != last:
                pass
            ids.append(event.id)
    open_gate(site)
    for id in ids:
        async with site.stream("group=orders.slow.b", {"Last-Event-ID": id}) as stream:
            _, reset, state = await stream.take(3)
        assert (reset.name, state.name) == ("sse.reset", "sse.snapshot")
        assert state.json()["data"] == "<b>slow</b>"


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("orders.failing", "on purpose"),
        ("orders.large", "SSE_APP['SNAPSHOT_BYTES'] = 1048576"),
    ],
)
async def test_a_state_that_cannot_be_had_ends_the_stream_and_is_logged(
    site: Daphne, group: str, said: str
) -> None:
    async with site.stream(f"group={group}") as stream:
        *_, closed = await stream.until_end()
    assert (closed.name, closed.json()) == ("sse.close", {"reason": "snapshot"})
    assert 15_000 <= (stream.parser.retry or 0) <= 60_000
    assert place(closed.id) == (LOST.epoch, LOST.offset)
    assert said in site.text()
    # Whoever has a place needs no state.
    cursor = encode_cursor({group: Position("0", 0)}, 1e10)
    async with site.stream(f"group={group}", {"Last-Event-ID": cursor}) as stream:
        await stream.next()
        site.publish(group, "n", "1")
        assert (await stream.next()).data == "1"


async def test_one_read_that_takes_too_long_ends_all_who_wait_and_is_not_begun_again(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = with_states(make_daphne(SNAPSHOT_SECONDS=0.2))
    async with daphne.stream("group=import") as other:
        await other.next()
        for _ in range(2):
            async with daphne.stream("group=orders.slow.c") as stream:
                assert (await stream.until_end())[-1].json() == {"reason": "snapshot"}
            # It holds up nobody else: not even the reads of the log.
            async with daphne.stream("group=chat.a&from=earliest") as stream:
                await stream.next()
        assert "takes more than 0.2 s" in daphne.text()
        open_gate(daphne)
        async with daphne.stream("group=orders.slow.c") as stream:
            await first_state(stream)
    assert calls(daphne, "orders.slow.c") == 1


async def test_a_function_that_hangs_holds_neither_others_nor_the_end_of_the_process(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = with_states(make_daphne(SNAPSHOT_SECONDS=600))
    streams = [daphne.stream(f"group=orders.stuck.{n}") for n in range(2 * CALLS_AT_ONCE)]
    readers = [await stream.__aenter__() for stream in streams]
    try:
        for reader in readers:
            await reader.next()
        # More of them than threads; other functions have threads of their own.
        for group in ("orders.now.a", "orders.async"):
            async with daphne.stream(f"group={group}") as stream:
                await first_state(stream)
        assert daphne.process is not None
        daphne.process.send_signal(signal.SIGTERM)
        for reader in readers:
            (closed,) = await reader.until_end()
            assert (closed.name, closed.json()) == ("sse.close", {"reason": "shutdown"})
        assert await asyncio.to_thread(daphne.process.wait, PATIENCE) == 0
    finally:
        for stream in streams:
            await stream.__aexit__(None, None, None)


async def test_where_all_threads_of_a_function_hang_its_streams_end_at_once(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = with_states(make_daphne(SNAPSHOT_SECONDS=0.2))
    async with daphne.stream("group=import") as other:
        await other.next()
        for n in range(CALLS_AT_ONCE):
            async with daphne.stream(f"group=orders.stuck.{n}") as stream:
                assert (await stream.until_end())[-1].json() == {"reason": "snapshot"}
        # Nobody waits for what has hung so long: neither the same group nor another.
        for group in ("orders.stuck.0", "orders.stuck.more"):
            async with daphne.stream(f"group={group}") as stream:
                assert (await stream.until_end())[-1].json() == {"reason": "snapshot"}
        assert calls(daphne, "orders.stuck.0") == 1
        assert calls(daphne, "orders.stuck.more") == 0
        async with daphne.stream("group=orders.now.a") as stream:
            await first_state(stream)


async def test_who_is_disconnected_or_leaves_does_not_wait_for_the_state(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = with_states(make_daphne(SNAPSHOT_SECONDS=600))
    ann = await Visitor(daphne, "ann").sign_in()
    async with ann.stream("group=orders.slow.left"):
        pass
    await asyncio.to_thread(daphne.until_streams, 0)
    async with ann.stream("group=orders.slow.gone") as stream:
        code = f"from sse_app import disconnect\ndisconnect(user={ann.pk})\nresult = None"
        await asyncio.to_thread(run, daphne, code)
        assert [event.json() for event in await stream.until_end()] == [{"reason": "auth"}]
    code = "from sse_app.access.limits import LIMITS\nresult = dict(LIMITS.counts)"
    await asyncio.to_thread(eventually, lambda: run(daphne, code) == {})


async def test_a_group_that_is_taken_while_its_state_is_read_is_not_shown(site: Daphne) -> None:
    close_gate(site)
    async with site.stream("group=orders.slow.d&group=import") as stream:
        await stream.next()
        await asyncio.to_thread(eventually, lambda: calls(site, "orders.slow.d"))
        code = "from sse_app import disconnect\ndisconnect(group='orders.slow.d')\nresult = None"
        await asyncio.to_thread(run, site, code)
        assert (await stream.next()).json() == {"group": "orders.slow.d", "reason": "unknown"}
        # The other group waits for the taken one no more; then what was read comes too late.
        for data in ("on", "and on"):
            site.publish("import", "n", data)
            assert (await stream.next()).data == data
            open_gate(site)


async def test_many_who_come_at_once_share_one_read(site: Daphne) -> None:
    close_gate(site)
    streams = [site.stream("group=orders.slow.e") for _ in range(max(ARRIVALS, 20))]
    readers = await asyncio.gather(*(stream.__aenter__() for stream in streams))
    try:
        for reader in readers:
            assert (await reader.next()).name == "sse.open"
        open_gate(site)
        states = [await reader.next() for reader in readers]
    finally:
        await asyncio.gather(*(stream.__aexit__(None, None, None) for stream in streams))
    assert {state.name for state in states} == {"sse.snapshot"}
    assert len({state.id.rpartition("-")[0] for state in states}) == 1
    assert calls(site, "orders.slow.e") == 1


# --- under writes ---

#: A hundred transactions in a second, of so many rows.
WRITER = f"""
import time
from itertools import cycle, islice
from pathlib import Path
from django.db import transaction
from project.models import Order
from sse_app import publish

stop, rate = Path({{stop!r}}), {{rate}}
orders = [Order.objects.create(customer="c", item="i", total=0) for _ in range({ROWS})]
began, written, turn = time.monotonic(), 0, cycle(orders)
while not stop.exists():
    with transaction.atomic():
        for order in islice(turn, max(1, rate // 100)):
            order.total += 1
            order.save()
            written += 1
    time.sleep(max(0, began + written / rate - time.monotonic()))
publish("orders", "done")
"""


@pytest.mark.slow
async def test_under_writes_nobody_misses_anything_or_gets_it_twice(
    make_daphne: Callable[..., Daphne], tmp_path: Path
) -> None:
    daphne = with_states(make_daphne())
    stop = tmp_path / "stop"
    limits = httpx.Limits(max_connections=None)
    log: list[Parsed] = []
    async with (
        httpx.AsyncClient(timeout=PATIENCE, limits=limits) as client,
        daphne.stream("group=orders") as observer,
        asyncio.TaskGroup() as group,
    ):
        await first_state(observer)
        code = WRITER.format(stop=str(stop), rate=WRITES)
        group.create_task(asyncio.to_thread(daphne.shell, code))
        try:
            log += await observer.take(2 * ROWS)
            watching = group.create_task(until_done(observer, log))
            arrivals, began, before = [], time.monotonic(), len(log)
            for _ in range(ARRIVALS):
                arrived = asyncio.Event()
                arrivals.append(group.create_task(arrive(daphne, client, arrived)))
                await arrived.wait()
            await asyncio.gather(*arrivals)
            rate = (len(log) - before) / (time.monotonic() - began)
        finally:
            stop.touch()
        await watching
    log.pop()
    assert [place(event.id)[1] for event in log] == list(range(1, len(log) + 1))
    repeated = missed = stale = wrong = 0
    for state, events in (arrival.result() for arrival in arrivals):
        offsets = [place(event.id)[1] for event in events]
        known = place(state.id)[1]
        repeated += len(offsets) - len(set(offsets))
        missed += len(set(range(known + 1, offsets[-1] + 1)) - set(offsets))
        assert offsets == sorted(offsets)
        rows = {int(pk): value for pk, value in state.json()["data"].items()}
        # What came up to its id is in the state, and maybe more: totals only grow.
        stale += any(rows[pk] < value for pk, value in rows_of(log[:known]).items())
        wrong += rows | rows_of(events) != rows_of(log[: offsets[-1]])
    print(
        f"{ARRIVALS} arrivals, {rate:.0f} changes/s meanwhile, {calls(daphne, 'orders')} reads:",
        end=" ",
    )
    print(f"{missed} missed, {repeated} repeated, {stale} stale, {wrong} wrong")
    assert (missed, repeated, stale, wrong) == (0, 0, 0, 0)


async def until_done(stream: StreamReader, log: list[Parsed]) -> None:
    while log[-1].name != "done":
        log.append(await stream.next())


async def arrive(
    daphne: Daphne, client: httpx.AsyncClient, arrived: asyncio.Event
) -> tuple[Parsed, list[Parsed]]:
    """Return the state and as many events as change each row."""
    async with daphne.stream("group=orders", client=client) as stream:
        state = await first_state(stream)
        arrived.set()
        return state, await stream.take(2 * ROWS)


def rows_of(events: list[Parsed]) -> dict[int, int]:
    """The rows' totals after `events`."""
    return {e.json()["pk"]: int(float(e.json()["fields"]["total"])) for e in events}


# --- registering, and sharing ---


@pytest.fixture
def no_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "_sources", {})


@pytest.mark.usefixtures("no_sources")
def test_one_function_has_a_pattern() -> None:
    @snapshot("order.*")
    def any_order(group: str) -> int:
        return 1

    assert snapshot("order.*")(any_order) is any_order
    with pytest.raises(ValueError, match=r"'order.\*' has a snapshot already.*any_order"):
        snapshot("order.*")(lambda group: 2)


@pytest.mark.usefixtures("no_sources")
@pytest.mark.parametrize("turned", [False, True])
def test_the_best_pattern_gives_the_state_whatever_the_order(turned: bool) -> None:
    patterns = ["order.*", "order.1*", "order.1", "*.1", "o*", "*", "order.*9", "order.*.9"]
    for pattern in reversed(patterns) if turned else patterns:
        snapshot(pattern)(lambda group, of=pattern: of)
    given = {
        "order.1": "order.1",
        "order.12": "order.1*",
        "order.2": "order.*",
        "order.29": "order.*9",
        "order.2.9": "order.*.9",
        "offer.1": "o*",
        "chat.1": "*.1",
        "chat": "*",
    }
    found = {group: source_of(group) for group in given}
    assert {group: source and source.pattern for group, source in found.items()} == given
    assert source_of("x") is not None


@pytest.mark.parametrize("seconds", [-1, 61, float("nan"), "1", True, None])
def test_seconds_that_can_not_be_meant_are_refused(seconds: Any) -> None:
    with pytest.raises(ValueError, match="a number from 0 to 60") as caught:
        snapshot("order.*", seconds=seconds)
    assert repr(seconds) in str(caught.value)


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'bad pattern'"):
        snapshot("bad pattern")


class Served:
    """A topic, as far as a place is asked of it."""

    position: Any = Position("a", 1)


@pytest.mark.usefixtures("no_sources")
async def test_a_thousand_who_ask_at_once_and_in_the_next_moment_read_it_once() -> None:
    topic, shared, read = Served(), None, []

    @snapshot("g", seconds=60)
    async def state(group: str) -> int:
        read.append(group)
        # What is published while it is read comes after its place.
        topic.position = topic.position._replace(offset=5)
        await asyncio.sleep(0)
        return len(read)

    shared = SharedSnapshots({"g": topic})  # type: ignore[dict-item]
    first = await asyncio.gather(*(shared.state("g") for _ in range(1000)))
    assert read == ["g"]
    assert {state.position for state in first} == {Position("a", 1)}
    assert await shared.state("g") is first[0]
    # Another log: what was read under the former one says nothing of what comes.
    topic.position = Position("b", 7)
    again = await shared.state("g")
    assert (len(read), again.position) == (2, Position("b", 7))
    await shared.close()


@pytest.mark.usefixtures("no_sources")
async def test_the_state_of_an_empty_group_is_not_kept_once_it_has_a_log() -> None:
    topic, reads = Served(), Counter[str]()
    topic.position = START

    @snapshot("g", seconds=60)
    async def state(group: str) -> int:
        reads[group] += 1
        return reads[group]

    shared = SharedSnapshots({"g": topic})  # type: ignore[dict-item]
    assert [(await shared.state("g")).position for _ in range(2)] == [START, START]
    assert reads["g"] == 1
    topic.position = Position("b", 1)  # There may have been another one between.
    assert (await shared.state("g")).position == Position("b", 1)
    await shared.close()


@pytest.mark.usefixtures("no_sources")
async def test_what_is_kept_has_a_bound_and_the_oldest_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "KEPT_BYTES", 2500)
    reads = Counter[str]()

    @snapshot("g.*", seconds=60)
    async def state(group: str) -> str:
        reads[group] += 1
        return "x" * 1000

    shared = SharedSnapshots({})
    for group in ("g.1", "g.2", "g.3", "g.2", "g.1"):
        await shared.state(group)
    assert reads == {"g.1": 2, "g.2": 1, "g.3": 1}
    await shared.close()


@pytest.mark.usefixtures("no_sources")
async def test_who_goes_while_it_is_read_takes_it_from_nobody_else() -> None:
    go = asyncio.Event()

    @snapshot("g")
    async def state(group: str) -> str:
        await go.wait()
        return "here"

    shared = SharedSnapshots({})
    impatient, patient = (asyncio.create_task(shared.state("g")) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.sleep(0)
    go.set()
    assert json.loads((await patient).block.split(b"data: ")[1])["data"] == "here"
    await shared.close()


@pytest.mark.usefixtures("memory")
async def test_a_place_that_is_lost_is_refused_however_long_events_are_kept(settings: Any) -> None:
    settings.SSE_APP = {**settings.SSE_APP, "RETENTION_SECONDS": 1e11}
    publish("g", "n", "1")
    reader = await Reader().start("g")
    lost = encode_cursor({"g": LOST}, time.time())
    start = await find_start(reader.hub, ["g"], StartRequest(lost, first=True))
    assert start.first["g"].reason == "trimmed"
    await reader.stop()


@pytest.mark.usefixtures("no_sources")
async def test_a_reader_that_comes_late_waits_no_longer_than_the_first(settings: Any) -> None:
    gate = threading.Event()

    @snapshot("g", seconds=60)
    def state(group: str) -> str:
        gate.wait()
        return "here"

    shared = SharedSnapshots({})
    settings.SSE_APP = {**settings.SSE_APP, "SNAPSHOT_SECONDS": 0.01}
    with pytest.raises(SnapshotFailed, match="takes more than"):
        await shared.state("g")
    settings.SSE_APP = {**settings.SSE_APP, "SNAPSHOT_SECONDS": 600}
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(SnapshotFailed, match="takes more than"):
            await shared.state("g")
        gate.set()
        while "g" not in shared._kept:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    # What was waited for in vain is given to those who come then.
    assert b"here" in (await shared.state("g")).block
    await shared.close()


@pytest.mark.usefixtures("no_sources")
async def test_a_process_that_ends_reads_and_keeps_nothing_more() -> None:
    reading, ended = asyncio.Event(), asyncio.Event()

    @snapshot("kept")
    async def kept(group: str) -> str:
        return "here"

    @snapshot("endless")
    async def endless(group: str) -> None:
        reading.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    shared = SharedSnapshots({})
    first = await shared.state("kept")
    waiting = asyncio.create_task(shared.state("endless"))
    await reading.wait()
    await shared.close()
    assert ended.is_set()
    with pytest.raises(SnapshotFailed, match="cancelled"):
        await waiting
    assert await shared.state("kept") is not first
    await shared.close()


class Page(ListSink):
    """A reader that is given first what there is."""

    takes_first = True

    def snapshot(self, state: State, cursor: str) -> None:
        self.seen.append(state.block.decode())
        self.grown.set()


@pytest.mark.usefixtures("no_sources", "memory")
async def test_who_is_held_while_it_is_read_gets_a_newer_one_when_it_goes_on() -> None:
    reading, go, reads = asyncio.Event(), asyncio.Event(), Counter[str]()

    @snapshot("g", seconds=0)
    async def state(group: str) -> int:
        reads[group] += 1
        reading.set()
        await go.wait()
        return reads[group]

    hub, page = get_hub(), Page()
    subscription = Subscription(page, ["g"])
    await hub.join(subscription)
    subscription.positions.update({"g": LOST})
    subscription.begin("g", STATE)
    running = asyncio.create_task(subscription.run(hub))
    await reading.wait()
    subscription.hold()
    go.set()
    # It waits for the same read, and is told after the page.
    await hub.snapshots.state("g")
    assert page.seen == []
    subscription.release(subscription.held)
    await asyncio.wait_for(page.grown.wait(), PATIENCE)
    assert ['"data":2' in block for block in page.seen] == [True]
    subscription.close("done")
    assert await running == "done"
    await hub.leave(subscription)


@pytest.mark.usefixtures("no_sources", "memory")
async def test_a_reset_reader_gets_no_state_from_before_its_reset(settings: Any) -> None:
    settings.SSE_APP = {**settings.SSE_APP, "RETENTION_EVENTS": 1}
    reads = Counter[str]()

    @snapshot("g", seconds=60)
    async def state(group: str) -> int:
        reads[group] += 1
        return reads[group]

    hub, page = get_hub(), Page()
    subscription = Subscription(page, ["g"])
    publish("g", "n", "before")
    await hub.join(subscription)
    subscription.positions.update({"g": LOST})
    subscription.begin("g", STATE)
    running = asyncio.create_task(subscription.run(hub))
    await asyncio.wait_for(page.grown.wait(), PATIENCE)
    publish("g", "n", "first")
    await page.until("first")
    page.open.clear()
    for n in range(RECENT_EVENTS + 1):
        publish("g", "n", str(n))
    # Then this reader can't be given the first of them any more: the process remembers fewer.
    await hub.heal("g")
    assert hub.position("g").offset == RECENT_EVENTS + 3
    page.open.set()
    await page.until('event: sse.snapshot\ndata: {"group":"g","data":2}\n\n')
    publish("g", "n", "last")
    await page.until("last")
    assert page.notices == [("g", "trimmed")]
    assert reads["g"] == 2
    subscription.close("done")
    assert await running == "done"
    await hub.leave(subscription)


@pytest.mark.usefixtures("no_sources", "memory")
async def test_a_state_that_fails_ends_nobody_who_lost_its_group_meanwhile() -> None:
    reading, go = asyncio.Event(), asyncio.Event()

    @snapshot("g")
    async def state(group: str) -> str:
        reading.set()
        await go.wait()
        raise RuntimeError("on purpose")

    hub, page = get_hub(), Page()
    subscription = Subscription(page, ["g", "h"])
    await hub.join(subscription)
    subscription.positions.update({"g": LOST, "h": hub.position("h")})
    subscription.begin("g", STATE)
    running = asyncio.create_task(subscription.run(hub))
    await reading.wait()
    await hub.drop(subscription, "g")
    go.set()
    publish("h", "n", "goes on")
    await page.until("goes on")
    subscription.close("done")
    assert await running == "done"
    await hub.leave(subscription)


def exhausted(group: str) -> Any:
    return next(iter([]))


async def cancelled(group: str) -> Any:
    raise asyncio.CancelledError


def exiting(group: str) -> Any:
    sys.exit(3)


async def exiting_async(group: str) -> Any:
    sys.exit(3)


@pytest.mark.django_db
@pytest.mark.usefixtures("no_sources")
@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda group: object(), "can't be JSON"),
        (lambda group: Order.objects.values("pk"), r"QuerySet, not JSON: return list\(\)"),
        (lambda group: asyncio.sleep(0), "coroutine, not JSON: await it"),
        (lambda group: "x" * 2_000_000, "more than SSE_APP"),
        (exhausted, r"raised StopIteration\(\)"),
        (cancelled, r"raised CancelledError\(\)"),
        (exiting, r"raised SystemExit\(3\)"),
        (exiting_async, r"raised SystemExit\(3\)"),
    ],
)
async def test_what_can_not_be_sent_is_a_failure(function: Any, said: str) -> None:
    snapshot("g")(function)
    shared = SharedSnapshots({})
    with pytest.raises(SnapshotFailed, match=said):
        await shared.state("g")
    await shared.close()


# --- the latest value ---


async def test_a_new_stream_of_a_retained_group_gets_its_last_events(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = with_states(make_daphne(RETAIN={"chat.*": 1, "chat.two": 2, "orders.now.*": 5}))
    groups = ("chat.a", "chat.two", "import", "orders.now.a")
    events = [(group, "n", f"{group} {n}") for group in groups for n in range(3)]
    run(daphne, f"from sse_app import publish_many\npublish_many({events})\nresult = None")
    async with daphne.stream("group=chat.a&group=chat.two&group=chat.none") as stream:
        opened, *given = await stream.take(4)
        daphne.publish("chat.none", "n", "live")
        assert (await stream.next()).data == "live"
    assert opened.json()["missed"] == 3
    assert [event.data for event in given] == ["chat.a 2", "chat.two 1", "chat.two 2"]
    # A place wins, wherever it comes from, and so does a state.
    for query, first in (
        (f"group=chat.a&last_event_id={given[-1].id}", "live"),
        ("group=chat.a&from=-3", "chat.a 1"),
        ("group=import", "live"),
    ):
        async with daphne.stream(query) as stream:
            await stream.next()
            daphne.publish(query[6:].split("&")[0], "n", "live")
            assert (await stream.next()).data == first
    async with daphne.stream("group=orders.now.a") as stream:
        await first_state(stream)
        daphne.publish("orders.now.a", "n", "live")
        assert (await stream.next()).data == "live"
    # Who is reset is as new as who comes for the first time, also while it is live.
    async with daphne.stream("group=chat.two&group=import&last_event_id=nonsense") as stream:
        _, *resets = await stream.take(3)
        assert [event.data for event in await stream.take(2)] == ["chat.two 1", "chat.two 2"]
        begin_log_anew(daphne, "chat.two")
        reset, *given = await stream.take(3)
        daphne.publish("chat.two", "n", "live")
        assert (await stream.next()).data == "live"
    assert [reset.json()["group"] for reset in resets] == ["chat.two", "import"]
    assert reset.json() == {"group": "chat.two", "reason": "epoch"}
    assert [event.data for event in given] == ["chat.two 1", "chat.two 2"]
    async with daphne.stream(f"group=chat.two&last_event_id={reset.id}") as stream:
        _, *again = await stream.take(4)
    assert [event.data for event in again] == ["chat.two 1", "chat.two 2", "live"]


@pytest.fixture
def retained_one(memory: None, settings: Any) -> None:
    """A log that keeps one event of a group: the one before goes with each new one."""
    settings.SSE_APP = {**settings.SSE_APP, "RETAIN": {"g": 1}, "RETENTION_EVENTS": 1}


WANTED = [StartRequest(first=True), StartRequest(history=1), StartRequest(history=inf)]


async def shown(wanted: StartRequest, then: Callable[[], object]) -> tuple[list[str], list[Any]]:
    """Join, find the start, do `then`, and return what is shown up to "last" and the resets."""
    hub, page = get_hub(), Page()
    subscription = Subscription(page, ["g"])
    await hub.join(subscription)
    start = await find_start(hub, ["g"], wanted)
    then()
    await hub.heal("g")
    subscription.positions.update(start.positions)
    for group, beginning in start.first.items():
        subscription.begin(group, beginning)
    running = asyncio.create_task(subscription.run(hub))
    publish("g", "n", "last")
    await page.until("last")
    subscription.close("done")
    await running
    await hub.leave(subscription)
    return page.seen, page.notices


@pytest.mark.usefixtures("no_sources", "retained_one")
@pytest.mark.parametrize("wanted", WANTED)
async def test_a_past_event_that_is_trimmed_before_it_is_shown_is_shown_all_the_same(
    wanted: StartRequest,
) -> None:
    publish("g", "n", "old")
    seen, notices = await shown(wanted, lambda: publish("g", "n", "new"))
    assert (seen, notices) == (["old", "new", "last"], [])


@pytest.mark.usefixtures("no_sources", "retained_one")
@pytest.mark.parametrize("wanted", WANTED)
async def test_a_past_event_that_is_trimmed_before_it_is_read_makes_way_for_the_next(
    wanted: StartRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, times = MemoryEventLog.aearliest, 0

    async def aearliest(self: MemoryEventLog, group: str) -> Position:
        nonlocal times
        found, times = await real(self, group), times + 1
        if times == 1:
            publish("g", "n", "new")
        return found

    publish("g", "n", "old")
    monkeypatch.setattr(MemoryEventLog, "aearliest", aearliest)
    seen, notices = await shown(wanted, lambda: None)
    assert (seen, notices) == (["new", "last"], [])
    assert times == 2


@pytest.mark.usefixtures("no_sources", "retained_one")
async def test_a_reset_reader_is_shown_what_was_retained_when_it_was_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish("g", "n", "old")
    hub, page = get_hub(), Page()
    subscription = Subscription(page, ["g"])
    await hub.join(subscription)
    start = await find_start(hub, ["g"], StartRequest("nonsense", first=True))
    subscription.positions.update(start.positions)
    for group, beginning in start.first.items():
        subscription.begin(group, beginning)
    real = page.reset

    def reset(group: str, reason: str, cursor: str) -> None:
        real(group, reason, cursor)
        publish("g", "n", "new")
        # The reader can take nothing for now, and then the old event is in the log no more.
        page.open.clear()

    monkeypatch.setattr(page, "reset", reset)
    running = asyncio.create_task(subscription.run(hub))
    await asyncio.wait_for(page.grown.wait(), PATIENCE)
    await hub.heal("g")
    page.open.set()
    await page.until("new")
    assert (page.seen, page.notices) == (["old", "new"], [("g", "unknown")])
    subscription.close("done")
    await running
    await hub.leave(subscription)
