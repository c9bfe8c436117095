"""Streams that are written to as one get what they would get alone, over real sockets."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from math import inf
from typing import Any

import pytest

from sse_app import publish
from sse_app.access.control_group import ControlSink
from sse_app.delivery import cohorts
from sse_app.delivery.cohorts import join_cohort
from sse_app.delivery.hub import get_hub
from sse_app.delivery.sinks import Sink
from sse_app.delivery.subscriptions import Subscription
from sse_app.delivery.transports.asgi import Direct
from sse_app.delivery.transports.chunked import frame
from sse_app.eventlog import event_log
from sse_app.protocol.cursors import Position
from sse_app.protocol.events import Event

from ..support.parser import Parser
from ..support.patience import PATIENCE
from ..support.servers import Daphne, StreamReader, eventually
from ..support.sleepers import connect, counts, read_until, run

MEMBERS = 10


class SocketSink(Sink):
    """Writes to one end of a pair of sockets, as a stream does; `read()` reads the other."""

    subscription: Subscription

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.settimeout(PATIENCE)
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.waiting = b""
        self.broken = False
        self.received = b""
        self.resets: list[str] = []
        self._drained = asyncio.Event()

    # --- Sink ---

    @property
    def ready(self) -> bool:
        return not self.waiting

    async def drained(self) -> None:
        self._drained.clear()
        await self._drained.wait()

    def show(self, event: Event, cursor: str, block: bytes) -> None:
        self.write(block)

    def reset(self, group: str, reason: str, cursor: str) -> None:
        self.resets.append(reason)

    def passed(self, cursor: str) -> None:
        raise AssertionError("nothing is filtered here")

    def direct(self) -> Direct | None:
        return None if self.waiting or self.broken else self.ours.send

    def joined_cohort(self, before: int) -> float:
        return inf

    def left_cohort(self, written: int, at: float, rest: bytes | None, pending: bytes) -> None:
        self.broken = rest is None
        self._send(rest or b"")
        if pending:
            self._send(frame(pending))

    # --- the connection ---

    def write(self, block: bytes) -> None:
        self.subscription.leave_cohort()
        self._send(frame(block))

    def _send(self, framed: bytes) -> None:
        self.waiting += framed
        try:
            sent = self.ours.send(self.waiting) if self.waiting else 0
        except BlockingIOError:
            sent = 0
        self.waiting = self.waiting[sent:]

    def pump(self) -> None:
        """Read what has come, so that what waits can come too."""
        self.theirs.setblocking(False)
        while True:
            try:
                received = self.theirs.recv(65536)
            except BlockingIOError:
                if not self.waiting:
                    break
                self._send(b"")
                continue
            if not received:
                break
            self.received += received
        self._drained.set()

    def events(self) -> list[str]:
        """Return the data of what has arrived until now, whole chunks of whole events."""
        self.pump()
        parser, rest = Parser(), self.received
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            assert rest[length : length + 2] == b"\r\n", "two chunks mixed up"
            parser.feed(rest[:length])
            rest = rest[length + 2 :]
        return [event.data for event in parser.events]


class Site:
    """Some members of one cohort, and who else listens."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.hub = get_hub()

    async def open(self, *groups: str, names: tuple[str, ...] = ()) -> SocketSink:
        sink = SocketSink()
        sink.subscription = subscription = Subscription(sink, groups, names)
        await self.hub.join(subscription)
        subscription.positions.update({group: self.hub.position(group) for group in groups})
        task = asyncio.create_task(subscription.run(self.hub))
        self._stack.push_async_callback(self._leave, sink, task)
        return sink

    async def _leave(self, sink: SocketSink, task: asyncio.Task[str]) -> None:
        sink.subscription.leave_cohort()
        sink.subscription.close("done")
        await asyncio.wait_for(task, PATIENCE)
        await self.hub.leave(sink.subscription)
        sink.ours.close()
        sink.theirs.close()

    async def many(self, *groups: str, count: int = MEMBERS) -> list[SocketSink]:
        """Open readers and wait until each is a member."""
        sinks = [await self.open(*groups) for _ in range(count)]
        await until(lambda: all(sink.subscription.live for sink in sinks))
        for sink in sinks:
            if sink.subscription.cohort is None:
                join_cohort(sink.subscription, self.hub)
        assert len({sink.subscription.cohort for sink in sinks}) == 1
        return sinks


async def until(fact: Callable[[], bool]) -> None:
    """Return when something is so."""
    for _ in range(5000):
        if fact():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it is still not so")


async def turns() -> None:
    """Let what is to be sent in slices be sent."""
    for _ in range(2 * MEMBERS):
        await asyncio.sleep(0)


@pytest.fixture
async def site(settings: Any) -> AsyncIterator[Site]:
    settings.SSE_APP = {"EVENT_LOG": "sse_app.eventlog.MemoryEventLog", "CHECK_INTERVAL": 30}
    async with AsyncExitStack() as stack:
        yield Site(stack)


def offer(site: Site, *data: str, durable: bool = True) -> None:
    """Publish, and deliver in this turn of the loop."""
    for text in data:
        if durable:
            event = publish("g", "n", text)  # Which the layer brings again, and it is dropped.
        else:
            event = Event(group="g", name="n", data=text, durable=False)
        site.hub._deliver(event)


async def test_each_member_gets_each_event_once_and_in_order(site: Site) -> None:
    sinks = await site.many("g")
    for n in range(100):
        publish("g", "n", str(n))
    await until(lambda: all(sink.events()[-1:] == ["99"] for sink in sinks))
    assert all(sink.events() == [*map(str, range(100))] for sink in sinks)
    assert len({sink.received for sink in sinks}) == 1
    assert sinks[0].subscription.positions["g"] == site.hub.position("g")
    assert site.hub.reached("g", site.hub.position("g")) == MEMBERS


async def test_what_the_layer_reorders_and_doubles_is_put_right_for_members(site: Site) -> None:
    """They take whatever their topic gives: only there it is seen what follows what."""
    sinks = await site.many("g")
    events = event_log().append([Event.of("g", "n", str(n)) for n in range(5)])
    for n in (1, 0, 0, 3, 2, 1, 4):
        site.hub.topics["g"].offer(events[n])
    await until(lambda: all(sink.events()[-1:] == ["4"] for sink in sinks))
    assert all(sink.events() == [*map(str, range(5))] for sink in sinks)


async def test_what_is_offered_within_one_turn_leaves_in_one_write(site: Site) -> None:
    sinks = await site.many("g")
    offer(site, "a", "b")
    assert all(sink.events() == [] for sink in sinks)
    await turns()
    (framed,) = {sink.received for sink in sinks if sink.events() == ["a", "b"]}
    assert framed.count(b"\r\n") == 2


async def test_few_readers_make_no_cohort_and_the_last_member_takes_it_along(site: Site) -> None:
    few = [await site.open("g") for _ in range(cohorts.LEAST_MEMBERS - 1)]
    await turns()
    assert all(sink.subscription.live and sink.subscription.cohort is None for sink in few)
    others = await site.many("h")
    topic = site.hub.topics["h"]
    assert (topic.readers, len(topic.subscriptions), len(topic.cohorts)) == (MEMBERS, 0, 1)
    for sink in others:
        sink.subscription.leave_cohort()
    assert (topic.readers, len(topic.subscriptions), len(topic.cohorts)) == (MEMBERS, MEMBERS, 0)


async def test_members_of_several_groups_get_ids_of_all_of_them(site: Site) -> None:
    sinks = await site.many("g", "h")
    publish("g", "n", "1")
    publish("h", "n", "2")
    await until(lambda: all(len(sink.events()) == 2 for sink in sinks))
    assert all(sink.events() == ["1", "2"] for sink in sinks)
    assert sinks[0].subscription.positions == {g: site.hub.position(g) for g in ("g", "h")}
    assert sinks[0].received.count(b"id: ") == 2
    assert sinks[0].subscription.cursor.encode() in sinks[0].received


@pytest.mark.parametrize("how", ["hold", "mute"])
async def test_a_held_or_muted_member_is_offered_nothing_more(
    site: Site, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sinks = await site.many("g")
    held = sinks[3].subscription
    offer(site, "before")
    reads: list[Position] = []
    read = site.hub.read

    async def counted(group: str, after: Position) -> list[Event]:
        reads.append(after)
        return await read(group, after)

    monkeypatch.setattr(site.hub, "read", counted)
    await asyncio.to_thread(*((held.hold,) if how == "hold" else (held.mute, "auth")))
    offer(site, "after")
    await turns()
    assert sinks[3].events() == ["before"]
    assert sinks[4].events() == ["before", "after"]
    assert reads == [], "what is held reads nothing either"
    if how == "hold":
        held.release(held.held)
        await turns()
        assert sinks[3].events() == ["before", "after"]


async def test_one_that_was_held_for_nothing_is_a_member_once(site: Site) -> None:
    sinks = await site.many("g")
    held = sinks[0].subscription
    held.hold()
    held.release(held.held)
    await turns()
    offer(site, "n")
    await turns()
    assert [sink.events() for sink in sinks] == [["n"]] * MEMBERS
    assert site.hub.topics["g"].readers == MEMBERS


async def test_one_that_is_held_while_it_joins_is_offered_nothing(site: Site) -> None:
    sinks = await site.many("g")
    late = sinks[0].subscription
    late.leave_cohort()
    joined = sinks[0].joined_cohort

    def held(before: int) -> float:
        late.held = 1
        return joined(before)

    sinks[0].joined_cohort = held  # type: ignore[method-assign]
    join_cohort(late, site.hub)
    offer(site, "n")
    await turns()
    assert (sinks[0].events(), sinks[1].events()) == ([], ["n"])


async def test_what_a_member_says_itself_comes_in_order(site: Site) -> None:
    sinks = await site.many("g")
    offer(site, "before")
    sinks[0].write(b"data: own\n\n")
    offer(site, "after")
    await turns()
    assert sinks[0].events() == ["before", "own", "after"]
    assert sinks[1].events() == ["before", "after"]


async def test_who_joins_in_the_middle_of_a_turn_gets_nothing_twice(site: Site) -> None:
    sinks = await site.many("g")
    sinks[0].subscription.leave_cohort()
    offer(site, "before")
    join_cohort(sinks[0].subscription, site.hub)
    assert sinks[0].subscription.cohort is not None
    offer(site, "after")
    await turns()
    assert sinks[0].events() == ["before", "after"]


async def test_a_member_leaves_in_the_middle_of_a_slice_with_all_it_was_offered(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohorts, "FLUSH_STREAMS", 3)
    sinks = await site.many("g")
    offer(site, "a")
    await asyncio.sleep(0)
    assert [bool(sink.events()) for sink in sinks] == [True] * 3 + [False] * 7, "not in slices"
    offer(site, "b")
    for sink in (sinks[1], sinks[8]):
        sink.subscription.leave_cohort()
        assert sink.events() == ["a", "b"]
    offer(site, "c")
    await turns()
    assert all(sink.events() == ["a", "b", "c"] for sink in sinks)


@pytest.mark.parametrize("durable", [True, False])
async def test_a_member_that_takes_less_is_served_alone_and_nobody_waits(
    site: Site, durable: bool
) -> None:
    sinks = await site.many("g")
    slow, big = sinks[2], "x" * 30_000
    for n in range(30):
        offer(site, f"{n} {big}", durable=durable)
        await turns()
        assert all(sink.events()[-1].startswith(f"{n} ") for sink in sinks if sink is not slow)
        if slow.waiting:
            break
    assert slow.subscription.cohort is None
    last = len(slow.subscription.positions) and n
    offer(site, "missed", durable=durable)
    assert slow.subscription.lagging
    while slow.subscription.lagging or slow.waiting:
        slow.pump()
        await asyncio.sleep(0)
    await turns()
    assert [data.split()[0] for data in slow.events()] == [*map(str, range(last + 1)), "missed"]


async def test_what_is_too_much_for_one_turn_comes_once_to_who_takes_less(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohorts, "FLUSH_BYTES", 10)
    sinks = await site.many("g")
    offer(site, "at once, since a turn may be long")
    assert all(len(sink.events()) == 1 for sink in sinks)
    for n in range(40):
        offer(site, f"{n} {'x' * 3000}", durable=False)
        if sinks[0].waiting:
            break
    await turns()
    assert all(sink.waiting for sink in sinks), "somebody took everything"
    for _ in range(100):
        for sink in sinks:
            sink.pump()
        await asyncio.sleep(0)
    for sink in sinks:
        assert not sink.subscription.lagging
        assert sink.events()[1].startswith("0 ")
        assert len(set(sink.events())) == len(sink.events())


async def test_a_reader_of_some_events_only_is_no_member(site: Site) -> None:
    sinks = await site.many("g")
    chosen = await site.open("g", names=("other",))
    await until(lambda: chosen.subscription.live)
    offer(site, "n")
    await turns()
    assert (chosen.events(), sinks[0].events()) == ([], ["n"])
    assert chosen.subscription.positions == sinks[0].subscription.positions


async def test_a_member_that_left_is_not_kept(site: Site) -> None:
    sinks = await site.many("g")
    cohort = sinks[0].subscription.cohort
    assert cohort is not None
    sinks[0].subscription.hold()
    sinks[0].subscription.leave_cohort()
    assert sinks[0].subscription not in cohort._suspects


async def test_a_broken_member_costs_the_others_nothing(site: Site) -> None:
    sinks = await site.many("g")
    sinks[0].ours.close()
    sinks[5].theirs.close()
    offer(site, "a")
    await turns()
    assert (sinks[0].broken, sinks[5].broken, sinks[1].broken) == (True, True, False)
    sinks = [sink for n, sink in enumerate(sinks) if n not in (0, 5)]
    assert all(sink.events() == ["a"] for sink in sinks)


async def test_a_log_that_begins_anew_is_told_to_every_member(site: Site) -> None:
    sinks = await site.many("g")
    offer(site, "old")
    await asyncio.to_thread(site_log_renewed, "g")
    await site.hub.check()
    await site.hub.heal("g")
    publish("g", "n", "new")
    await until(lambda: all(len(sink.events()) == 2 for sink in sinks))
    assert all(sink.resets == ["epoch"] for sink in sinks)
    assert all(sink.events() == ["old", "new"] for sink in sinks)


def site_log_renewed(group: str) -> None:
    from sse_app.eventlog import event_log

    event_log().renew_epoch([group])


async def test_a_group_is_taken_from_one_member_only(site: Site) -> None:
    sinks = await site.many("g", "h")
    await site.hub.drop(sinks[0].subscription, "g")
    publish("g", "n", "g")
    publish("h", "n", "h")
    await until(lambda: all(sink.events()[-1:] == ["h"] for sink in sinks))
    assert sinks[0].events() == ["h"]
    assert sinks[1].events() == ["g", "h"]
    assert sinks[0].subscription.positions == {"h": site.hub.position("h")}


async def test_whatever_readers_do_each_gets_each_event_once_and_in_order(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohorts, "FLUSH_STREAMS", 3)
    chance = random.Random(7)
    sinks = await site.many("g", count=12)
    first = dict.fromkeys(sinks, 0)
    said = 0
    for _ in range(600):
        sink = chance.choice(sinks)
        act = chance.choice(["offer", "offer", "offer", "turn", "part", "hold", "gather", "open"])
        if act == "offer":
            offer(site, f"{said} {'x' * chance.choice([1, 900])}")
            said += 1
        elif act == "turn":
            for _ in range(chance.choice([1, 1, 5])):
                await asyncio.sleep(0)
        elif act == "part":
            sink.subscription.leave_cohort()
        elif act == "hold":
            sink.subscription.hold()
            asyncio.get_running_loop().call_soon(sink.subscription.release, sink.subscription.held)
        elif act == "gather" and sink.subscription.cohort is None:
            join_cohort(sink.subscription, site.hub)
        elif act == "open" and len(sinks) < 30:
            sinks.append(await site.open("g"))
            first[sinks[-1]] = said
        if chance.random() < 0.3:
            sink.pump()
    for _ in range(200):
        for sink in sinks:
            sink.pump()
        await asyncio.sleep(0)
    for sink in sinks:
        numbers = [int(data.split()[0]) for data in sink.events()]
        # One that was opened begins where the topic stood, or later, as joining takes its time.
        assert numbers == list(range(numbers[0] if numbers else said, said))
        assert first[sink] == 0 or not numbers or numbers[0] >= first[sink] - 1
    assert sum(sink.subscription.cohort is not None for sink in sinks) > 5


# --- on a real server ---


async def members_of(daphne: Daphne, stack: AsyncExitStack) -> list[StreamReader]:
    """Open twenty streams and wait until all are members."""
    streams = [await stack.enter_async_context(daphne.stream("group=orders")) for _ in range(20)]
    for stream in streams:
        await stream.next()
    eventually(lambda: run(daphne, MEMBERSHIP) == [20, 0])
    return streams


@pytest.mark.slow
async def test_streams_on_daphne_are_written_to_as_one_and_a_sleeper_is_not(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne()
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(daphne.stream("group=orders"))
            for _ in range(cohorts.LEAST_MEMBERS)
        ]
        for stream in streams:
            await stream.next()
        sleeper = connect(daphne)
        eventually(lambda: run(daphne, MEMBERSHIP) == [cohorts.LEAST_MEMBERS + 1, 0])
        publish_many = "from sse_app import publish\n"
        publish_many += "for n in range(3000): publish('orders', 'n', f'{n} ' + 'x' * 2000)\n"
        await asyncio.to_thread(run, daphne, publish_many + "result = None")

        async def numbers(stream: StreamReader) -> list[int]:
            return [int(event.data.split()[0]) for event in await stream.take(3000)]

        for read in await asyncio.gather(*map(numbers, streams)):
            assert read == [*range(3000)]
        eventually(lambda: run(daphne, MEMBERSHIP) == [cohorts.LEAST_MEMBERS, 1])
        assert counts(daphne)["lagged"] >= 1
        data = await asyncio.to_thread(read_until, sleeper, "2999 ")
        assert [text.split()[0] for text in data] == [*map(str, range(3000))]
        eventually(lambda: run(daphne, MEMBERSHIP) == [cohorts.LEAST_MEMBERS + 1, 0])
        sent = run(daphne, SENT)
        assert len(set(sent)) <= 2, f"counted differently: {sent}"
        assert min(sent) > 3000 * 2000
        sleeper.close()


MEMBERSHIP = """
from sse_app.delivery.hub import running_hubs
(hub,) = running_hubs()
topic = hub.topics["orders"]
result = [sum(map(len, topic.cohorts.values())), len(topic.subscriptions)]
"""
SENT = """
from sse_app.operations.reports import streams
result = sorted(stream.bytes_sent for stream in streams())
"""


@pytest.mark.slow
async def test_what_a_stream_says_itself_comes_in_order(make_daphne: Callable[..., Daphne]) -> None:
    daphne = make_daphne()
    async with AsyncExitStack() as stack:
        streams = await members_of(daphne, stack)
        for own in ("stream._write(own)", BY_TWISTED):
            await asyncio.to_thread(run, daphne, IN_ONE_TURN.format(own=own))
            for stream in streams:
                assert [event.data for event in await stream.take(3)] == ["1", "own", "2"]
            eventually(lambda: run(daphne, MEMBERSHIP) == [20, 0])


BY_TWISTED = (
    "stream.subscription.leave_cohort(), stream._transport.flush(), "
    "stream._transport._write_rest(frame(own))"
)
IN_ONE_TURN = """
from sse_app.access.control_group import ControlSink
from sse_app.delivery.cohorts import join_cohort
from sse_app.operations.reports import streams
from sse_app.delivery.transports.chunked import frame
from sse_app.protocol.events import Event
from sse_app.delivery.hub import running_hubs
(hub,) = running_hubs()
def speak():
    hub._deliver(Event(group="orders", name="n", data="1", durable=False))
    own = b"data: own\\n\\n"
    for stream in streams():
        {own}
        join_cohort(stream.subscription, hub)
    hub._deliver(Event(group="orders", name="n", data="2", durable=False))
    for cohort in list(hub.topics["orders"].cohorts.values()):
        cohort.flush()
hub.loop.call_soon_threadsafe(speak)
result = None
"""


async def test_a_member_whose_connection_fails_is_ended_and_not_passed_over(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne()
    async with AsyncExitStack() as stack:
        streams = await members_of(daphne, stack)  # Kept, as a reader that is not hangs up.
        await asyncio.to_thread(run, daphne, ONE_FAILS)
        eventually(lambda: daphne.streams() == len(streams) - 1)


ONE_FAILS = """
from sse_app import publish
from sse_app.delivery.hub import running_hubs
def fail(chunk):
    raise OSError("no buffer space")
(hub,) = running_hubs()
(cohort,) = hub.topics["orders"].cohorts.values()
cohort._sends[7] = fail
publish("orders", "n", "1")
result = None
"""


async def test_members_leave_with_a_farewell_that_continues_after_the_last_event(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne()
    async with AsyncExitStack() as stack:
        streams = await members_of(daphne, stack)
        daphne.publish("orders", "n", "last")
        ids = {(await stream.next()).id for stream in streams}
        assert len(ids) == 1
        stopping = asyncio.create_task(asyncio.to_thread(daphne.stop))
        for stream in streams:
            (event,) = await stream.until_end()
            assert event.name == "sse.close"
            assert {event.id} == ids
        await stopping


def test_members_that_hang_up_leave_nothing_behind(make_daphne: Callable[..., Daphne]) -> None:
    daphne = make_daphne()
    connections = [connect(daphne) for _ in range(20)]
    eventually(lambda: run(daphne, MEMBERSHIP) == [20, 0])
    other = connect(daphne, group="clock")
    for connection in connections:
        connection.close()
    code = "from sse_app.delivery.hub import running_hubs\nresult = [*running_hubs()[0].topics]"
    eventually(lambda: "orders" not in run(daphne, code), "the topic has readers without any")
    other.close()


def test_heartbeats_go_to_members_too(make_daphne: Callable[..., Daphne]) -> None:
    daphne = make_daphne(HEARTBEAT=0.5)
    connections = [connect(daphne) for _ in range(cohorts.LEAST_MEMBERS)]
    eventually(lambda: run(daphne, MEMBERSHIP)[0] > 0)
    for connection in connections:
        received = b""
        while b"\r\n:\n\r\n" not in received:
            received += connection.recv(65536)
    eventually(lambda: run(daphne, MEMBERSHIP)[0] > 0, "they are not gathered again")
    for connection in connections:
        connection.close()


def test_the_control_group_has_no_cohort() -> None:
    assert ControlSink().direct() is None
