"""A second costs what is due in it: the visits of streams and cohorts are counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser

from sse_app import publish
from sse_app.delivery import cohorts, hub, streams
from sse_app.delivery.cohorts import Cohort
from sse_app.delivery.hub import Hub, get_hub
from sse_app.delivery.replay import Start
from sse_app.delivery.streams import Stream
from sse_app.delivery.timers import CANCELLED, Timer, Timers
from sse_app.delivery.transports import asgi
from sse_app.delivery.transports.asgi import AsgiTransport, Direct, Transport
from sse_app.delivery.transports.chunked import frame
from sse_app.delivery.transports.daphne import DaphneTransport
from sse_app.operations import reports
from sse_app.protocol.events import HEARTBEAT
from sse_app.runtime.telemetry import COUNTS

from ..support.servers import Daphne, eventually
from ..support.sleepers import connect, run

#: By default, seconds between two heartbeats.
BEAT = 15
MANY = 2000


class Clock:
    """Both clocks, which stand still until the test moves them."""

    def __init__(self) -> None:
        self._monotonic, self._time = 1000.0, time.time()

    def monotonic(self) -> float:
        return self._monotonic

    def time(self) -> float:
        return self._time

    def set(self, seconds: float) -> None:
        """Set the system's clock forward; the monotonic clock does not change."""
        self._time += seconds

    async def seconds(self, count: int, running: Hub) -> None:
        """Let so many seconds pass, with the hub's tick in each."""
        for _ in range(count):
            self._monotonic += 1
            self._time += 1
            await running.tick()
            for _ in range(20):
                await asyncio.sleep(0)


class Written(Transport):
    """Keeps what is written; `takes` says whether a cohort may write by `direct()`."""

    def __init__(self, *, takes: bool) -> None:
        super().__init__(None, None)  # type: ignore[arg-type]
        self.chunks: list[bytes] = []
        self.takes = takes
        self.unsent = 0
        self.checked = 0

    async def start(self) -> None:
        pass

    @property
    def ready(self) -> bool:
        return True

    @property
    def waiting(self) -> int:
        return self.unsent

    def write(self, chunk: bytes) -> None:
        self.chunks.append(frame(chunk))

    async def drained(self) -> None:
        pass

    def direct(self) -> Direct | None:
        return self._send_now if self.takes and not self.unsent else None

    def _send_now(self, framed: bytes) -> int:
        if self.unsent:
            raise BlockingIOError
        self.chunks.append(framed)
        return len(framed)

    def joined_cohort(self, before: int) -> None:
        pass

    def left_cohort(self, before: int, rest: bytes | None) -> None:
        pass

    async def finish(self) -> None:
        pass

    def check(self, now: float) -> float:
        self.checked += 1
        return inf

    def _break(self, reason: str = "broken") -> None:
        pass

    @property
    def heartbeats(self) -> int:
        return self.chunks.count(frame(HEARTBEAT))


class Site:
    """Streams of one hub, and how often each was visited."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.hub = get_hub()
        self.visits = Counter[object]()
        self.streams: list[Stream] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def open(
        self,
        *groups: str,
        takes: bool = True,
        transport: Transport | None = None,
        **options: Any,
    ) -> Stream:
        stream = Stream(
            self.hub,
            transport or Written(takes=takes),
            groups,
            user=AnonymousUser(),
            user_key="",
            sender=Site,
            **{"until": None, "life": 3600.0, **options},
        )
        await self.hub.join(stream.subscription)
        positions = {group: self.hub.position(group) for group in groups}
        await stream.open(Start(positions, {}, recovered=False, missed=0))
        self._tasks.append(asyncio.create_task(stream.run()))
        await asyncio.sleep(0)  # As on a server, it runs before the next tick.
        self.streams.append(stream)
        return stream

    async def pass_seconds(self, count: int) -> None:
        await self.clock.seconds(count, self.hub)

    async def close(self) -> None:
        for stream in self.streams:
            stream.close("shutdown")
        await asyncio.gather(*self._tasks)


@pytest.fixture
async def site(settings: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    settings.SSE_APP = {"EVENT_LOG": "sse_app.eventlog.MemoryEventLog", "CHECK_INTERVAL": 3600}
    clock = Clock()
    for module in (hub, streams, cohorts, asgi):
        monkeypatch.setattr(module, "time", clock)
    made = Site(clock)
    for kind in (Stream, Cohort):
        monkeypatch.setattr(kind, "tick", counted(kind.tick, made.visits))
    # Only the test's own calls of `Hub.tick()`.
    made.hub.services._services.pop("tick").close()
    yield made
    await made.close()


def counted(tick: Callable[..., float], visits: Counter[object]) -> Callable[..., float]:
    def visit(timed: Any, now: float) -> float:
        visits[timed] += 1
        return tick(timed, now)

    return visit


def transport_of(stream: Stream) -> Written:
    assert isinstance(stream._transport, Written)
    return stream._transport


# --- what a second costs ---


async def test_the_members_of_a_cohort_are_not_visited_and_share_one_heartbeat(site: Site) -> None:
    members = [await site.open("g") for _ in range(MANY)]
    await site.pass_seconds(1)
    (cohort,) = site.hub.topics["g"].cohorts.values()
    assert len(cohort) == MANY
    site.visits.clear()
    await site.pass_seconds(BEAT * 4)
    assert site.visits == {cohort: 4}
    assert {transport_of(member).heartbeats for member in members} == {4}


async def test_the_pings_of_a_cohort_carry_the_id_once_and_others_get_comments(site: Site) -> None:
    asked = [await site.open("g", ping=True) for _ in range(cohorts.LEAST_MEMBERS)]
    others = [await site.open("g") for _ in range(cohorts.LEAST_MEMBERS)]
    await site.pass_seconds(1)
    assert len(site.hub.topics["g"].cohorts) == 2
    await site.pass_seconds(BEAT * 2)
    for stream in asked:
        pings = [chunk for chunk in transport_of(stream).chunks if b"sse.ping" in chunk]
        assert [b"id: " in ping for ping in pings] == [True, False]
        assert transport_of(stream).heartbeats == 0
    assert {transport_of(stream).heartbeats for stream in others} == {2}


async def test_streams_of_own_groups_are_visited_for_their_heartbeats_only(site: Site) -> None:
    alone = [await site.open(f"own.{n}") for n in range(MANY)]
    await site.pass_seconds(1)
    site.visits.clear()
    await site.pass_seconds(BEAT - 2)
    assert site.visits == {}
    await site.pass_seconds(BEAT)
    assert site.visits == dict.fromkeys(alone, 1)
    assert {transport_of(stream).heartbeats for stream in alone} == {1}


async def test_a_stream_or_cohort_that_has_ended_has_no_timer(site: Site) -> None:
    for _ in range(cohorts.LEAST_MEMBERS + 1):
        await site.open("g")
    await site.open("own")
    await site.pass_seconds(1)
    assert len(site.hub.timers) == cohorts.LEAST_MEMBERS + 3
    await site.close()
    assert len(site.hub.timers) == 0
    assert not site.hub.behind | site.hub.sending


async def test_a_report_asks_only_the_streams_that_are_not_live(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = [await site.open("g" if n % 2 else f"own.{n}") for n in range(MANY)]
    opened[0].subscription.hold()
    await site.pass_seconds(2)
    asked: list[Stream] = []
    state_of = reports.state_of

    def counted(stream: Stream) -> str:
        asked.append(stream)
        return state_of(stream)

    monkeypatch.setattr(reports, "state_of", counted)
    monkeypatch.setattr(reports, "held_readers", lambda loop: [SimpleNamespace(stream=opened[0])])
    monkeypatch.setattr(Stream, "queue", property(lambda stream: asked.append(stream) or 7))
    before = COUNTS.opened - sum(COUNTS.closed.values()) - MANY
    assert reports.report()["open"] == {
        "live": MANY - 1 + before,
        "catching up": 0,
        "lagging": 0,
        "held": 1,
    }
    assert asked == opened[:1]
    site.hub.sending.add(opened[1])
    assert reports.report()["waiting"] == {"bytes": 7, "events": 0}
    assert asked == [opened[0], opened[0], opened[1]]


async def test_an_event_sets_no_timer_and_delays_the_heartbeat(site: Site) -> None:
    stream = await site.open("g")
    await site.pass_seconds(10)
    site.visits.clear()
    before = stream.timer
    publish("g", "n", "x")
    await asyncio.sleep(0.01)
    for _ in range(1000):
        if b"data: x" in b"".join(transport_of(stream).chunks):
            break
        await asyncio.sleep(0.001)
    assert stream.timer == before
    await site.pass_seconds(BEAT - 1)
    assert (site.visits[stream], transport_of(stream).heartbeats) == (1, 0)
    await site.pass_seconds(1)
    assert (site.visits[stream], transport_of(stream).heartbeats) == (2, 1)


async def test_many_that_are_due_at_once_let_other_tasks_run_in_between(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "TICKS", 10)
    for n in range(100):
        await site.open(f"own.{n}")
    visited = [0]
    ticking = asyncio.create_task(site.pass_seconds(1))
    while not ticking.done():
        await asyncio.sleep(0)
        visited.append(site.visits.total())
    assert visited[-1] == 100
    assert max(later - earlier for earlier, later in pairwise(visited)) <= 10


# --- what must not be late ---


async def test_a_member_that_has_waited_longer_than_its_cohort_gets_its_heartbeat_in_time(
    site: Site,
) -> None:
    late = await site.open("g", takes=False)
    await site.pass_seconds(BEAT - 1)
    for _ in range(cohorts.LEAST_MEMBERS):
        await site.open("g")
    transport_of(late).takes = True
    cohorts.join_cohort(late.subscription, site.hub)
    assert late.subscription.cohort is not None
    await site.pass_seconds(2)
    assert transport_of(late).heartbeats == 1


async def test_a_member_that_wrote_alone_or_was_slow_joins_its_cohort_again(site: Site) -> None:
    members = [await site.open("g") for _ in range(cohorts.LEAST_MEMBERS + 1)]
    await site.pass_seconds(1)
    wrote, slow, *_ = members
    transport_of(slow).unsent = 1
    (cohort,) = {member.subscription.cohort for member in members}
    assert cohort is not None
    publish("g", "n", "x")
    for _ in range(1000):
        if slow.subscription.cohort is None:
            break
        await asyncio.sleep(0.001)
    wrote.subscription.leave_cohort()
    assert [member.subscription.cohort for member in (wrote, slow)] == [None, None]
    site.visits.clear()
    await site.pass_seconds(3)
    assert [member.subscription.cohort for member in (wrote, slow)] == [cohort, None]
    assert site.visits == {wrote: 1, slow: 3}, "the one with unsent bytes is watched"
    transport_of(slow).unsent = 0
    await site.pass_seconds(1)
    assert slow.subscription.cohort is cohort


@pytest.mark.parametrize("by", ["age", "expired"])
async def test_a_member_of_a_cohort_ends_within_one_tick(site: Site, by: str) -> None:
    until = site.clock.time() + 100
    limits = {"until": until} if by == "expired" else {"life": 100.0}
    members = [await site.open("g", **limits) for _ in range(cohorts.LEAST_MEMBERS + 1)]
    for member in members:
        member._ends_at = site.clock.monotonic() + (100 if by == "age" else inf)
    await site.pass_seconds(99)
    assert {member.close_reason for member in members} == {None}
    await site.pass_seconds(1)
    assert {member.close_reason for member in members} == {by}


async def test_a_stream_expires_when_the_clock_of_the_system_is_set_forward(site: Site) -> None:
    stream = await site.open("g", until=site.clock.time() + 3000)
    await site.pass_seconds(1)
    site.clock.set(3000)
    await site.pass_seconds(1)
    assert stream.close_reason == "expired"


async def test_the_first_that_waits_is_checked_when_it_may_have_stalled(
    site: Site, settings: Any
) -> None:
    settings.SSE_APP = {**settings.SSE_APP, "STALL_SECONDS": 5}  # Before the next heartbeat.
    gate = asyncio.Event()
    gate.set()

    async def send(message: dict[str, Any]) -> None:
        await gate.wait()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    stream = await site.open("g", transport=AsgiTransport(send, receive))
    await site.pass_seconds(2)
    gate.clear()
    stream._write(b"data: x\n\n")
    await site.pass_seconds(5)
    assert stream.close_reason is None
    await site.pass_seconds(2)
    assert stream.close_reason == "stalled"


async def test_a_transport_that_daphne_pauses_is_checked_when_it_may_have_stalled() -> None:
    transport = DaphneTransport(None, None, SimpleNamespace())  # type: ignore[arg-type]
    asked: list[float] = []
    transport.on_waiting = asked.append
    transport.pauseProducing()
    assert asked == [transport.check(transport._paused_at)]


async def test_who_joins_while_the_last_member_is_lost_is_in_a_cohort_that_gets_events(
    site: Site,
) -> None:
    members = [await site.open("g") for _ in range(cohorts.LEAST_MEMBERS + 1)]
    await site.pass_seconds(1)
    for member in members[1:]:
        member.subscription.leave_cohort()
    last, late = members[:2]
    (cohort,) = site.hub.topics["g"].cohorts.values()
    transport_of(last).unsent = 1
    site.hub._deliver(publish("g", "n", "lost"))
    cohorts.join_cohort(late.subscription, site.hub)
    assert (last.subscription.cohort, late.subscription.cohort) == (None, cohort)
    site.hub._deliver(publish("g", "n", "next"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert b"data: next" in b"".join(transport_of(late).chunks)


# --- `Timers` ---


class Timed(SimpleNamespace):
    """Notes when it was called; each time it asks for the next of `then`."""

    timer: Timer | None = None

    def tick(self, now: float) -> float:
        self.calls.append(now)
        return float(self.then.pop(0)) if self.then else inf


def timed(*then: float) -> Timed:
    return Timed(calls=[], then=list(then))


def test_the_earliest_time_counts_and_a_call_returns_the_next() -> None:
    timers, one = Timers(), timed(30, 20)
    timers.at(10, one)
    timers.at(5, one)
    timers.at(12, one)
    for now in (4, 5, 10, 12, 29, 30, 31, 32):
        assert not timers.run(now, 10)
    assert one.calls == [5, 30, 31], "a time that has passed is the next tick"
    assert len(timers) == 0


def test_a_cancelled_one_is_not_called_and_not_kept() -> None:
    timers = Timers()
    stays = timed()
    timers.at(10**6, stays)
    for n in range(50 * CANCELLED):
        one = timed()
        timers.at(10**6 + n, one)
        timers.cancel(one)
        timers.run(0, 10)
        assert len(timers._heap) <= CANCELLED + 3
    timers.run(10**7, 10**7)
    assert (len(timers), stays.calls, one.calls) == (0, [10**7], [])


# --- Daphne's own checks ---

CHECKED = """
from sse_app.operations.reports import streams
requests = [stream._transport._request for stream in streams()]
connections = requests[0].server.connections
result = [len(requests), sum(each in connections for each in requests),
          sum(each in connections.keys() for each in requests),
          sum(each in dict(connections.items()) for each in requests)]
"""
LEFT = """
import gc
from daphne.server import Server
(server,) = [found for found in gc.get_objects() if isinstance(found, Server)]
result = sum(type(each).__name__ == "WebRequest" and b"/events/?" in each.uri
             for each in list(server.connections))
"""


def test_daphne_does_not_go_through_open_streams_and_forgets_them_when_they_end(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne()
    connections = [connect(daphne) for _ in range(5)]
    daphne.until_streams(5)
    assert run(daphne, CHECKED) == [5, 5, 0, 0]
    assert run(daphne, LEFT) == 5
    for connection in connections[:3]:
        connection.close()
    eventually(lambda: run(daphne, LEFT) == 2)
    run(
        daphne,
        "from sse_app.operations.reports import streams\n"
        "from sse_app.access.disconnect import end_stream\n"
        "for stream in streams(): end_stream(stream.id)\n"
        "result = None",
    )
    eventually(lambda: run(daphne, LEFT) == 0)
    for connection in connections:
        connection.close()


@pytest.mark.slow
def test_daphne_ends_a_stream_after_the_time_that_its_option_allows(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(options=["--http-timeout", "1"])
    connection = connect(daphne)
    eventually(lambda: run(daphne, LEFT) == 0)
    connection.close()
