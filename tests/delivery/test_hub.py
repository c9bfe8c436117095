"""The hub heals what a bad channel layer does: loses, doubles and reorders messages."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer, channel_layers

from sse_app import publish
from sse_app.conf import site_tag
from sse_app.delivery import subscriptions
from sse_app.delivery.hub import get_hub, running_hubs
from sse_app.delivery.log_reader import LogReader
from sse_app.delivery.subscriptions import Subscription
from sse_app.delivery.timers import Timer
from sse_app.eventlog import event_log
from sse_app.protocol.cursors import Position
from sse_app.protocol.events import Event
from sse_app.protocol.groups import layer_group, shared_group
from sse_app.publishing import outbox as layer
from sse_app.runtime.telemetry import COUNTS

from ..support.layers import ForeignLayer
from ..support.patience import PATIENCE
from ..support.subscribers import ListSink, Reader

SEED = 20260


class BadLayer(InMemoryChannelLayer):  # type: ignore[misc]  # channels has no types
    """Loses half of the messages, and doubles and delays others."""

    random = random.Random(SEED)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        for _ in range(self.random.choice([0, 0, 1, 2])):
            if self.random.random() < 0.3:
                asyncio.get_running_loop().call_later(
                    self.random.uniform(0, 0.01),
                    lambda: asyncio.ensure_future(super(BadLayer, self).group_send(group, message)),
                )
            else:
                await super().group_send(group, message)


@pytest.fixture
def bad_layer(memory: None, settings: Any) -> Iterator[None]:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "tests.delivery.test_hub.BadLayer"}}
    BadLayer.random = random.Random(SEED)
    yield
    channel_layers.backends.clear()


@pytest.mark.usefixtures("bad_layer")
async def test_lost_doubled_and_reordered_messages_are_healed_from_the_log() -> None:
    readers = [await Reader().start("g") for _ in range(5)]
    expected = []
    for n in range(500):
        publish("g", "n", str(n))
        expected.append(str(n))
        if n % 7 == 0:
            await asyncio.sleep(0)
        if n % 100 == 0:
            await readers[0].sink.until(str(n))
    for reader in readers:
        await reader.sink.until("499")
        assert reader.sink.seen == expected
        assert reader.sink.notices == []
        await reader.stop()
    assert running_hubs() == []


class FailingLayer(InMemoryChannelLayer):  # type: ignore[misc]  # channels has no types
    """Loses or fails as often as a test asks."""

    losses = 0
    failures = 0
    lost: asyncio.Event

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if type(self).losses:
            type(self).losses -= 1
            self.lost.set()
        else:
            await super().group_send(group, message)

    async def receive(self, channel: str) -> Any:
        message = await super().receive(channel)
        if type(self).failures:
            type(self).failures -= 1
            raise ConnectionError("the layer is away")
        return message


@pytest.fixture
def failing_layer(settings: Any) -> Iterator[None]:
    # No check of the heads comes in time to help.
    settings.SSE_APP = {"EVENT_LOG": "sse_app.eventlog.MemoryEventLog", "CHECK_INTERVAL": 600}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "tests.delivery.test_hub.FailingLayer"}}
    yield
    FailingLayer.losses = FailingLayer.failures = 0
    channel_layers.backends.clear()


@pytest.mark.usefixtures("failing_layer")
async def test_a_jump_is_healed_without_waiting_for_the_check() -> None:
    reader = await Reader().start("g")
    publish("g", "n", "0")
    await reader.sink.until("0")
    FailingLayer.losses = 1
    FailingLayer.lost = asyncio.Event()
    publish("g", "n", "1")
    await FailingLayer.lost.wait()
    publish("g", "n", "2")
    await reader.sink.until("2")
    assert reader.sink.seen == ["0", "1", "2"]
    await reader.stop()


@pytest.mark.usefixtures("failing_layer")
async def test_a_receive_loop_that_fails_begins_again_and_misses_nothing() -> None:
    restarts = COUNTS.restarts.get("receive", 0)
    reader = await Reader().start("g")
    for n in range(3):
        FailingLayer.failures = 1
        publish("g", "n", str(n))
        await reader.sink.until(str(n))
    publish("g", "n", "passing", durable=False)
    await reader.sink.until("passing")
    assert reader.sink.seen == ["0", "1", "2", "passing"]
    assert COUNTS.restarts.get("receive", 0) == restarts, "the service itself does not end"
    await reader.stop()


@pytest.mark.usefixtures("failing_layer")
async def test_a_plain_thread_publishes_by_way_of_the_hubs_loop() -> None:
    # In debug mode asyncio refuses to be touched from another thread.
    asyncio.get_running_loop().set_debug(True)
    reader = await Reader().start("g")
    thread = threading.Thread(target=lambda: publish("g", "n", "x", durable=False))
    thread.start()
    await reader.sink.until("x")
    thread.join()
    await reader.stop()


@pytest.mark.usefixtures("memory")
async def test_what_a_thread_publishes_is_sent_on_the_hubs_loop() -> None:
    reader = await Reader().start("g")
    outbox = await asyncio.to_thread(layer._outbox)
    assert outbox.loop is reader.hub.loop
    await reader.stop()


@pytest.mark.usefixtures("memory")
async def test_the_readers_of_an_event_are_counted_the_late_ones_when_they_get_it() -> None:
    live, slow = await Reader().start("g"), await Reader().start("g")
    other = await Reader().start("g", names=("other",))
    slow.sink.open.clear()
    COUNTS.clear()
    event = publish("g", "n", "counted")
    await live.sink.until("counted")
    place = event.position
    assert place is not None
    hub = get_hub()
    assert hub.reached("g", place) == 1, "one is behind, and one did not ask for it"
    slow.sink.open.set()
    await slow.sink.until("counted")
    assert hub.reached("g", place) == 2
    topic = hub.topics["g"]
    assert (topic.published, topic.delivered, COUNTS.delivered) == (1, 2, 2)
    assert hub.reached("elsewhere", place) == 0
    for reader in (live, slow, other):
        await reader.stop()


@pytest.mark.usefixtures("memory")
async def test_a_reader_that_lags_reads_the_log_and_gets_the_latest_per_key() -> None:
    slow, quick = await Reader().start("g"), await Reader().start("g")
    publish("g", "n", "both are live")
    for reader in (slow, quick):
        await reader.sink.until("both are live")
    COUNTS.clear()
    slow.sink.seen.clear()
    slow.sink.open.clear()
    for n in range(700):
        publish("g", "n", str(n))
    for n in range(50):
        publish("g", "cursor", f"ann {n}", durable=False, key="ann")
        publish("g", "cursor", f"bob {n}", durable=False, key="bob")
    await quick.sink.until("bob 49")
    assert slow.sink.seen == []
    slow.sink.open.set()
    await slow.sink.until("bob 49")
    assert slow.sink.seen == [*map(str, range(700)), "ann 49", "bob 49"]
    assert (COUNTS.lagged, COUNTS.caught_up, COUNTS.superseded) == (1, 1, 98)
    COUNTS.clear()
    slow.subscription.hold()
    publish("g", "n", "held")
    await quick.sink.until("held")
    slow.subscription.release(slow.subscription.held)
    await slow.sink.until("held")
    assert (COUNTS.lagged, COUNTS.caught_up) == (0, 0), "one that was only held is not slow"
    await slow.stop()
    await quick.stop()


@pytest.mark.usefixtures("memory")
async def test_a_new_epoch_is_told_and_what_follows_arrives() -> None:
    reader = await Reader().start("g")
    publish("g", "n", "before")
    await reader.sink.until("before")
    event_log().renew_epoch(["g"])
    publish("g", "n", "lost to the reader, who is told")
    while not reader.sink.notices:
        reader.sink.grown.clear()
        await asyncio.wait_for(reader.sink.grown.wait(), PATIENCE)
    publish("g", "n", "after")
    await reader.sink.until("after")
    assert reader.sink.notices == [("g", "epoch")]
    await reader.stop()


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(
    "message",
    [
        {"type": "sse.event"},
        {"type": "sse.event", "group": "g", "event": "bad name", "data": ""},
        {"type": "sse.event", "group": "g", "event": "n", "data": "x", "offset": "1"},
        {"type": "sse.events", "events": "no list"},
        {"type": "chat.message", "text": "foreign"},
        {"type": "sse.event", "group": "g", "event": "n", "data": object},
    ],
)
async def test_a_malformed_message_is_skipped_and_the_next_one_arrives(
    message: dict[str, Any],
) -> None:
    reader = await Reader().start("g")
    layer = channel_layers["default"]
    await layer.group_send(shared_group(site_tag()), message)
    await layer.group_send(
        shared_group(site_tag()), {"type": "sse.event", "group": "g", "data": "foreign"}
    )
    await reader.sink.until("foreign")
    assert reader.sink.seen == ["foreign"]
    await reader.stop()


@pytest.mark.usefixtures("memory")
async def test_many_readers_at_one_place_cost_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    holder = await Reader().start("g")
    start = holder.hub.position("g")
    for n in range(600):
        publish("g", "n", str(n))
    await holder.sink.until("599")
    await quiet(holder)
    reads = 0
    real = type(event_log()).asince

    async def counted(self: Any, *args: Any) -> Any:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0)
        return await real(self, *args)

    monkeypatch.setattr(type(event_log()), "asince", counted)
    readers = []
    for _ in range(50):
        readers.append(await Reader().start("g", at=start))
    for reader in readers:
        await reader.sink.until("599")
        assert reader.sink.seen == [str(n) for n in range(600)]
        await reader.stop()
    assert reads <= 3
    await holder.stop()


@pytest.mark.usefixtures("memory")
async def test_a_reader_that_leaves_takes_the_read_from_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event = publish("g", "n", "0")
    gate, reads = asyncio.Event(), LogReader()
    real = type(event_log()).asince

    async def held(self: Any, *args: Any) -> Any:
        await gate.wait()
        return await real(self, *args)

    monkeypatch.setattr(type(event_log()), "asince", held)
    before = Position(event.epoch or "", 0)
    first, second = [asyncio.create_task(reads.page("g", before, 1)) for _ in range(2)]
    await turns()
    first.cancel()
    await turns()
    gate.set()
    assert await second == [event]
    await reads.close()


@pytest.mark.usefixtures("memory")
async def test_readers_a_few_events_behind_in_groups_of_their_own_share_a_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = [publish(f"g{n}", "n", "0") for n in range(20)]
    reads, shared = LogReader(), list[int]()
    real = type(event_log()).asince_each

    async def counted(self: Any, reads: Any, limit: int) -> Any:
        shared.append(len(reads))
        return await real(self, reads, limit)

    monkeypatch.setattr(type(event_log()), "asince_each", counted)
    before = [(event.group, Position(event.epoch or "", 0)) for event in events]
    pages = await asyncio.gather(*(reads.page(*one, 1) for one in before))
    assert pages == [[event] for event in events]
    assert shared == [20]
    # A reader that is far behind needs a page of its own.
    event = publish("far", "n", "0")
    assert await reads.page("far", Position(event.epoch or "", 0), 500) == [event]
    assert shared == [20]
    await reads.close()


@pytest.mark.usefixtures("memory")
async def test_an_event_is_encoded_once_for_all_readers_of_a_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readers = [await Reader().start("g") for _ in range(5)]
    publish("g", "n", "all are live")
    for reader in readers:
        await reader.sink.until("all are live")
    encoded: list[str] = []
    real = Event.encode

    def counted(self: Event, *args: Any, **kwargs: Any) -> bytes:
        encoded.append(self.data)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Event, "encode", counted)
    publish("g", "n", "once")
    for reader in readers:
        await reader.sink.until("once")
    assert encoded == ["once"]
    for reader in readers:
        await reader.stop()


@pytest.mark.usefixtures("memory")
async def test_a_reader_that_lags_keeps_so_many_latest_events_and_no_more() -> None:
    slow, quick = await Reader().start("g"), await Reader().start("g")
    publish("g", "n", "both are live")
    for reader in (slow, quick):
        await reader.sink.until("both are live")
    slow.sink.open.clear()
    most = subscriptions.LATEST_EVENTS
    for n in range(most + 50):
        publish("g", "n", str(n), durable=False, key=str(n))
    await quick.sink.until(str(most + 49))
    slow.sink.open.set()
    await slow.sink.until(str(most + 49))
    assert slow.sink.seen[1:] == [str(n) for n in range(50, most + 50)]
    for reader in (slow, quick):
        await reader.stop()


@pytest.mark.usefixtures("memory")
async def test_one_that_was_held_again_meanwhile_is_not_released() -> None:
    reader = await Reader().start("g")
    reader.subscription.hold()
    mark = reader.subscription.held
    reader.subscription.hold()
    reader.subscription.release(mark)
    assert reader.subscription.held
    reader.subscription.release(reader.subscription.held)
    publish("g", "n", "go on")
    await reader.sink.until("go on")
    await reader.stop()


async def turns() -> None:
    """Let the loop turn until whatever can go on without the layer has done so."""
    for _ in range(20):
        await asyncio.sleep(0)


class SlowLayer(ForeignLayer):
    """Lets a test hold what joins and leaves groups."""

    gate: asyncio.Event

    async def group_add(self, group: str, channel: str) -> None:
        await self.gate.wait()
        await super().group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        await self.gate.wait()
        await super().group_discard(group, channel)


@pytest.fixture
def slow_layer(failing_layer: None, settings: Any) -> Iterator[None]:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "tests.delivery.test_hub.SlowLayer"}}
    yield
    channel_layers.backends.clear()


@pytest.mark.usefixtures("slow_layer")
async def test_a_group_left_while_it_starts_is_served_to_the_next_reader() -> None:
    SlowLayer.gate = asyncio.Event()
    other = asyncio.create_task(Reader().start("other"))
    first = asyncio.create_task(Reader().start("g"))
    await turns()
    first.cancel()
    await turns()
    second = asyncio.create_task(Reader().start("g"))
    await turns()
    SlowLayer.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    reader = await second
    publish("g", "n", "here", durable=False)
    await reader.sink.until("here")
    await reader.stop()
    await (await other).stop()
    assert running_hubs() == []


@pytest.mark.usefixtures("slow_layer")
async def test_readers_who_wait_for_the_same_start_outlive_the_first_one() -> None:
    SlowLayer.gate = asyncio.Event()
    first, second = [asyncio.create_task(Reader().start("g")) for _ in range(2)]
    await turns()
    first.cancel()
    await turns()
    SlowLayer.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    await (await second).stop()


@pytest.mark.usefixtures("slow_layer")
async def test_a_group_left_and_joined_again_at_once_stays_joined() -> None:
    SlowLayer.gate = asyncio.Event()
    SlowLayer.gate.set()
    other = await Reader().start("other")
    first = await Reader().start("g")
    SlowLayer.gate.clear()
    leaving = asyncio.create_task(first.stop())
    await turns()
    assert first.subscription not in other.hub.subscriptions
    second = asyncio.create_task(Reader().start("g"))
    await turns()
    SlowLayer.gate.set()
    await leaving
    reader = await second
    publish("g", "n", "here", durable=False)
    await reader.sink.until("here")
    await reader.stop()
    await other.stop()


@pytest.mark.usefixtures("slow_layer")
async def test_a_group_that_is_left_slowly_and_joined_again_stays_joined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The layer may do what it was asked for first after what it was asked for then."""
    monkeypatch.setattr("sse_app.delivery.memberships.LEAVE_SECONDS", 0.0)
    SlowLayer.gate = asyncio.Event()
    SlowLayer.gate.set()
    other, first = [await Reader().start(group) for group in ("other", "g")]
    leaving, left = asyncio.Event(), asyncio.Event()

    async def slowly(self: SlowLayer, group: str, channel: str) -> None:
        leaving.set()
        await left.wait()
        await ForeignLayer.group_discard(self, group, channel)

    monkeypatch.setattr(SlowLayer, "group_discard", slowly)
    await first.stop()
    await asyncio.wait_for(leaving.wait(), PATIENCE)
    starting = asyncio.create_task(Reader().start("g"))
    await turns()
    left.set()
    second = await starting
    await turns()
    publish("g", "n", "here", durable=False)
    await second.sink.until("here")
    await second.stop()
    await other.stop()


@pytest.mark.usefixtures("slow_layer")
async def test_while_the_layer_hangs_readers_begin_by_the_log_and_are_joined_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sse_app.delivery.memberships.WAIT_SECONDS", 0.01)
    SlowLayer.gate = asyncio.Event()
    asyncio.get_running_loop().call_later(10, SlowLayer.gate.set)
    reader = await Reader().start("g")
    assert not SlowLayer.gate.is_set(), "it began when the layer did"
    publish("g", "n", "logged")
    await reader.hub.check()
    await reader.sink.until("logged")
    SlowLayer.gate.set()
    await turns()
    assert layer_group("g", site_tag()) in channel_layers["default"].groups
    publish("g", "n", "passing", durable=False)
    await reader.sink.until("passing")
    SlowLayer.gate.clear()
    monkeypatch.setattr(SlowLayer, "group_discard", ForeignLayer.group_discard)
    await (await Reader().start("h")).stop()
    SlowLayer.gate.set()
    await turns()
    await reader.hub.mailbox.memberships.leave_all()
    assert layer_group("h", site_tag()) not in channel_layers["default"].groups
    # To leave takes no longer: the one who has lost a group waits for it, and others behind him.
    monkeypatch.undo()
    monkeypatch.setattr("sse_app.delivery.memberships.WAIT_SECONDS", 0.01)
    SlowLayer.gate.clear()
    await reader.stop()
    assert not SlowLayer.gate.is_set()
    SlowLayer.gate.set()


@pytest.mark.usefixtures("memory")
async def test_a_tick_that_fails_takes_the_tick_from_no_other() -> None:
    reader = await Reader().start("g")
    ticked: list[int] = []

    class Ticking:
        timer: Timer | None = None

        def __init__(self, number: int) -> None:
            self.number = number

        def tick(self, now: float) -> float:
            ticked.append(self.number)
            if self.number == 5:
                raise AttributeError("no transport")
            return now

    for number in range(10):
        reader.hub.timers.at(number, Ticking(number))
    await reader.hub.tick()
    await reader.hub.tick()
    assert sorted(ticked) == sorted([*range(10)] * 2), "each is called again, also the failing one"
    await reader.stop()


@pytest.mark.usefixtures("memory")
async def test_a_reader_that_leaves_twice_takes_nothing_from_the_next_hub() -> None:
    first = await Reader().start("g")
    await first.stop()
    second = await Reader().start("g")
    await first.hub.leave(first.subscription)
    asyncio.get_running_loop().set_debug(True)
    thread = threading.Thread(target=lambda: publish("g", "n", "x", durable=False))
    thread.start()
    await second.sink.until("x")
    thread.join()
    await second.stop()


@pytest.mark.usefixtures("memory")
async def test_the_last_reader_out_leaves_the_layers_groups() -> None:
    for _ in range(3):
        await (await Reader().start("g")).stop()
    assert not channel_layers["default"].groups


@pytest.mark.usefixtures("failing_layer")
async def test_a_reader_that_fails_is_closed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    readers = [await Reader().start("g") for _ in range(6)]
    publish("g", "n", "0")
    for reader in readers:
        await reader.sink.until("0")

    def fail(event: Event, cursor: str, block: bytes) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(readers[0].sink, "show", fail)
    publish("g", "n", "1")
    publish("g", "n", "2")
    for reader in readers[1:]:
        await reader.sink.until("2")
        assert reader.sink.seen == ["0", "1", "2"]
        await reader.stop()
    assert await readers[0].task == "error"
    await readers[0].hub.leave(readers[0].subscription)


@pytest.mark.usefixtures("failing_layer")
async def test_a_reader_ahead_of_this_process_in_a_new_epoch_is_not_reset() -> None:
    first = await Reader().start("g")
    log = event_log()
    log.append([Event.of("g", "n", str(n)) for n in range(5)])
    await first.hub.heal("g")
    log.renew_epoch(["g"])
    place = log.heads(["g"])["g"]
    log.append([Event.of("g", "n", "5")])  # by another process: it is not on this one's layer
    sink = ListSink()
    ahead = Subscription(sink, ["g"])
    await first.hub.join(ahead)
    ahead.positions.update({"g": place})
    running = asyncio.create_task(ahead.run(first.hub))
    await sink.until("5")
    log.append([Event.of("g", "n", "6")])
    await first.hub.heal("g")
    await sink.until("6")
    assert (sink.seen, sink.notices) == (["5", "6"], [])
    ahead.close("done")
    await running
    await first.hub.leave(ahead)
    await first.stop()


def put_back(log: Any, group: str, offset: int) -> None:
    """Make the memory log the copy of itself that was made at `offset`, as a restore would."""
    kept = log._logs[group]
    while kept.head > offset:
        kept.events.pop()
        kept.head -= 1
    kept.mark = kept.events[-1][1].mark


async def quiet(reader: Reader) -> None:
    """Return when no check or healing of the hub's start is under way any more."""
    await reader.hub.check()
    await reader.hub.heal("g")


@pytest.mark.usefixtures("failing_layer")
@pytest.mark.parametrize(
    "again", [["2 again", "3 again", "4 again"], ["2", "3", "4"]], ids=["other events", "the same"]
)
async def test_an_older_log_that_has_caught_up_again_is_found_by_its_first_new_event(
    again: list[str],
) -> None:
    """Its head is never seen going back, so only the event that stands there now can tell."""
    reader = await Reader().start("g")
    for n in range(5):
        publish("g", "n", str(n))
    await reader.sink.until("4")
    await quiet(reader)
    put_back(event_log(), "g", 2)
    before = event_log().heads(["g"])["g"]
    for text in again:
        publish("g", "n", text)
    while not reader.sink.notices:
        reader.sink.grown.clear()
        await asyncio.wait_for(reader.sink.grown.wait(), PATIENCE)
    publish("g", "n", "after")
    await reader.sink.until("after")
    assert reader.sink.notices == [("g", "epoch")]
    assert reader.sink.seen == ["0", "1", "2", "3", "4", "after"]
    assert event_log().heads(["g"])["g"].epoch != before.epoch
    await reader.stop()


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("length", [5, 6, 9])
async def test_a_log_that_went_back_and_grew_again_in_one_step_is_found_by_its_marks(
    length: int,
) -> None:
    """The layer brings nothing, and the head is never seen behind the reader."""
    reader = await Reader().start("g")
    for n in range(5):
        publish("g", "n", str(n))
    await reader.sink.until("4")
    await quiet(reader)
    before = event_log().heads(["g"])["g"]
    put_back(event_log(), "g", 2)
    event_log().append([Event.of("g", "n", str(n)) for n in range(2, length)])
    await reader.hub.check()
    while not reader.sink.notices:
        reader.sink.grown.clear()
        await asyncio.wait_for(reader.sink.grown.wait(), PATIENCE)
    publish("g", "n", "after")
    await reader.sink.until("after")
    assert reader.sink.notices == [("g", "epoch")]
    assert reader.sink.seen == ["0", "1", "2", "3", "4", "after"]
    assert event_log().heads(["g"])["g"].epoch != before.epoch
    await reader.stop()


@pytest.mark.usefixtures("memory")
async def test_an_event_on_another_chain_is_no_next_event() -> None:
    """The layer brings a late message of a log that went back; the log is asked."""
    reader = await Reader().start("g")
    event = publish("g", "n", "0")
    await reader.sink.until("0")
    late = Event.of("g", "n", "of the other chain").at(event.epoch or "", 2, "late", "else")
    await channel_layers["default"].group_send(shared_group(site_tag()), late.to_message())
    publish("g", "n", "1")
    await reader.sink.until("1")
    await reader.hub.heal("g")
    assert (reader.sink.seen, reader.sink.notices) == (["0", "1"], [])
    await reader.stop()


@pytest.mark.usefixtures("failing_layer")
async def test_a_message_that_lies_about_an_event_changes_nothing() -> None:
    reader = await Reader().start("g")
    event = publish("g", "n", "0")
    await reader.sink.until("0")
    lie = Event.of("g", "n", "a lie").at(event.epoch or "", 1, "lies")
    await channel_layers["default"].group_send(shared_group(site_tag()), lie.to_message())
    publish("g", "n", "1")
    await reader.sink.until("1")
    await reader.hub.heal("g")
    assert (reader.sink.seen, reader.sink.notices) == (["0", "1"], [])
    assert event_log().heads(["g"])["g"][:2] == (event.epoch, 2)
    await reader.stop()


class NotedLayer(InMemoryChannelLayer):  # type: ignore[misc]  # channels has no types
    """Counts who joins, and lets a membership lapse."""

    joined = 0
    again: asyncio.Event

    async def group_add(self, group: str, channel: str) -> None:
        type(self).joined += 1
        await super().group_add(group, channel)
        if type(self).joined > 2:
            self.again.set()


@pytest.mark.usefixtures("failing_layer")
async def test_groups_are_joined_again_before_their_membership_lapses(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "tests.delivery.test_hub.NotedLayer"}}
    monkeypatch.setattr("sse_app.delivery.hub.REJOIN_SECONDS", 0.01)
    NotedLayer.joined, NotedLayer.again = 0, asyncio.Event()
    reader = await Reader().start("g")
    layer = channel_layers["default"]
    layer.groups.clear()  # as an expiry would
    NotedLayer.joined, NotedLayer.again = 1, asyncio.Event()
    await asyncio.wait_for(NotedLayer.again.wait(), PATIENCE)
    publish("g", "n", "here", durable=False)
    await reader.sink.until("here")
    await reader.stop()


@pytest.mark.usefixtures("memory")
async def test_a_herd_with_a_long_way_to_go_costs_one_read_for_each_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those who come a little later, too: what was read is kept for a moment."""
    holder = await Reader().start("g")
    start = holder.hub.position("g")
    for n in range(2000):
        publish("g", "n", str(n))
    await holder.sink.until("1999")
    await quiet(holder)
    reads = 0
    real = type(event_log()).asince

    async def counted(self: Any, *args: Any) -> Any:
        nonlocal reads
        reads += 1
        return await real(self, *args)

    monkeypatch.setattr(type(event_log()), "asince", counted)
    for _ in range(20):
        reader = await Reader().start("g", at=start)
        await reader.sink.until("1999")
        assert reader.sink.seen == [str(n) for n in range(2000)]
        await reader.stop()
    assert reads <= 4
    await holder.stop()
