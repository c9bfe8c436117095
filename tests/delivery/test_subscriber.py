"""`subscribe()`: a server-side reader with a stream's guarantees."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sse_app import ContinuityLost, apublish, cursor, publish, publish_many, snapshot, subscribe
from sse_app.conf import channel_layer, site_tag
from sse_app.delivery.hub import running_hubs
from sse_app.delivery.log_reader import PAGE_EVENTS
from sse_app.eventlog import MemoryEventLog, event_log
from sse_app.protocol.events import Event
from sse_app.protocol.groups import shared_group

from ..support.patience import PATIENCE

pytestmark = pytest.mark.usefixtures("memory")


@pytest.fixture
def memory(settings: Any) -> None:
    settings.SSE_APP = {
        "EVENT_LOG": "sse_app.eventlog.MemoryEventLog",
        "CHECK_INTERVAL": 600,
        "QUEUE_EVENTS": 4,
    }


async def take(events: Any, count: int) -> list[str]:
    return [(await asyncio.wait_for(anext(events), PATIENCE)).data for _ in range(count)]


async def test_events_arrive_in_order_from_when_it_was_entered() -> None:
    publish("g", "n", "before")
    async with subscribe("g", "h") as events:
        for n in range(3):
            publish("g", "n", str(n))
        assert await take(events, 3) == ["0", "1", "2"]
        publish("h", "n", "other", durable=False)
        event = await anext(events)
        assert (event.group, event.data, event.durable) == ("h", "other", False)
    assert running_hubs() == []


async def test_it_goes_on_after_a_position_and_after_its_own() -> None:
    publish("g", "n", "before")
    position = cursor("g")
    publish("g", "n", "1")
    publish("g", "n", "2")
    publish("g", "n", "3")
    async with subscribe("g", after=position) as events:
        assert events.cursor == position
        assert await take(events, 2) == ["1", "2"]
        position = events.cursor
    async with subscribe("g", after=position) as events:
        assert await take(events, 1) == ["3"]


async def test_history_on_request() -> None:
    for n in range(5):
        publish("g", "n", str(n))
    async with subscribe("g", history="earliest") as events:
        assert await take(events, 5) == list("01234")
    async with subscribe("g", history=2) as events:
        assert await take(events, 2) == ["3", "4"]
    async with subscribe("g", history=0) as events:
        publish("g", "n", "now")
        assert await take(events, 1) == ["now"]


async def test_only_the_events_asked_for() -> None:
    async with subscribe("g", events=["wanted"]) as events:
        publish("g", "other", "1")
        publish("g", "wanted", "2")
        assert await take(events, 1) == ["2"]


async def test_what_fails_while_it_is_entered_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fails(*args: Any) -> Any:
        raise ConnectionError("away")

    monkeypatch.setattr("sse_app.delivery.subscriber.find_start", fails)
    with pytest.raises(ConnectionError):
        await subscribe("g").__aenter__()
    assert running_hubs() == []


async def test_a_subscription_that_fails_says_so_to_who_iterates() -> None:
    async with subscribe("g") as events:
        events._subscription.close("error")
        with pytest.raises(RuntimeError, match="the logger sse_app says why"):
            await asyncio.wait_for(anext(events), PATIENCE)


async def test_a_slow_body_holds_few_events_and_misses_none() -> None:
    async with subscribe("g") as events:
        for n in range(1000):
            publish("g", "n", str(n))
            await asyncio.sleep(0)
            assert len(events._inbox._waiting) <= 4
        assert await take(events, 1000) == [str(n) for n in range(1000)]


async def test_lost_continuity_is_raised_once_and_what_follows_arrives() -> None:
    publish("g", "n", "1")
    position = cursor("g")
    event_log().renew_epoch()
    publish("g", "n", "2")
    async with subscribe("g", after=position) as events:
        with pytest.raises(ContinuityLost, match=r"'g'.*epoch") as caught:
            await asyncio.wait_for(anext(events), PATIENCE)
        assert (caught.value.group, caught.value.reason) == ("g", "epoch")
        publish("g", "n", "3")
        assert await take(events, 1) == ["3"]


async def test_on_request_lost_continuity_is_an_item_and_the_loop_goes_on() -> None:
    publish("g", "n", "1")
    position = cursor("g")
    event_log().renew_epoch()
    publish("g", "n", "2")
    items: list[Any] = []
    async with (
        asyncio.timeout(PATIENCE),
        subscribe("g", after=position, raise_lost=False) as events,
    ):
        async for event in events:
            if isinstance(event, ContinuityLost):
                items.append((event.group, event.reason))
                publish("g", "n", "3")
            else:
                items.append(event.data)
            if items[-1] == "3":
                break
    assert items == [("g", "epoch"), "3"]


async def test_an_unreadable_position_is_lost_continuity() -> None:
    async with subscribe("g", after="nonsense") as events:
        with pytest.raises(ContinuityLost, match="unknown"):
            await asyncio.wait_for(anext(events), PATIENCE)


@pytest.mark.parametrize("after", [None, "nonsense", "a place in g"])
async def test_what_streams_are_given_first_does_not_come(
    settings: Any, monkeypatch: pytest.MonkeyPatch, after: str | None
) -> None:
    monkeypatch.setattr("sse_app.delivery.snapshots._sources", {})
    snapshot("g")(lambda group: "state")
    settings.SSE_APP = {**settings.SSE_APP, "RETAIN": {"h": 1}}
    for group in ("g", "h"):
        publish(group, "n", "before")
    position = cursor("g") if after == "a place in g" else after
    async with subscribe("g", "h", after=position) as events:
        for _ in ("g", "h") if after == "nonsense" else ():
            with pytest.raises(ContinuityLost, match="unknown"):
                await asyncio.wait_for(anext(events), PATIENCE)
        for group in ("g", "h"):
            publish(group, "n", f"new in {group}")
        assert await take(events, 2) == ["new in g", "new in h"]


async def test_a_log_that_is_away_for_a_moment_costs_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sse_app.delivery.subscriptions.RETRY_SECONDS", 0)
    real, failures = MemoryEventLog.asince, 0

    async def failing(self: MemoryEventLog, *args: Any) -> list[Event]:
        nonlocal failures
        if failures < 3:
            failures += 1
            raise ConnectionError("away")
        return await real(self, *args)

    told = [str(n) for n in range(PAGE_EVENTS + 1)]
    publish_many([("g", "n", text) for text in told])
    async with subscribe("g", history="earliest") as events:
        # The first page was read on entering.
        monkeypatch.setattr(MemoryEventLog, "asince", failing)
        assert await take(events, len(told)) == told
    assert failures == 3


async def test_a_log_that_is_away_on_entering_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(self: MemoryEventLog, *args: Any) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(MemoryEventLog, "aheads", failing)
    with pytest.raises(ConnectionError):
        async with subscribe("g"):
            pass
    assert running_hubs() == []


async def test_two_subscribers_and_a_body_that_publishes() -> None:
    async with subscribe("g") as one, subscribe("g") as two:
        await apublish("g", "n", "1")
        assert await take(one, 1) == ["1"]
        await apublish("g", "n", "2")
        assert await take(one, 1) == ["2"]
        assert await take(two, 2) == ["1", "2"]


async def test_a_hub_that_closes_ends_the_iteration() -> None:
    async with subscribe("g") as events:
        for hub in running_hubs():
            for subscription in list(hub.subscriptions):
                subscription.close("shutdown")
        assert [event async for event in events] == []


async def test_an_exception_in_the_body_passes_and_leaves() -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        async with subscribe("g"):
            raise RuntimeError("on purpose")
    assert running_hubs() == []


async def test_a_cancelled_body_leaves() -> None:
    entered = asyncio.Event()

    async def read() -> None:
        async with subscribe("g") as events:
            entered.set()
            await asyncio.wait_for(anext(events), PATIENCE)

    task = asyncio.create_task(read())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running_hubs() == []


@pytest.mark.parametrize("turns", range(12))
async def test_a_second_cancellation_while_it_is_left_keeps_nothing(turns: int) -> None:
    entered = asyncio.Event()

    async def read() -> None:
        async with subscribe("g"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await entered.wait()
    (hub,) = running_hubs()
    task.cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not hub.subscriptions
    for rest in asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait([rest], timeout=PATIENCE)
    assert running_hubs() == []
    assert shared_group(site_tag()) not in channel_layer().groups


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((), {}, "at least one group"),
        (("a b",), {}, "'a b'"),
        (("g",), {"events": ["sse.open"]}, "'sse.open'"),
        (("g",), {"history": "latest"}, "'latest'"),
        (("g",), {"history": -1}, "-1"),
        (("g",), {"history": True}, "True"),
    ],
)
def test_what_can_not_be_meant_is_refused(
    arguments: tuple[str, ...], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        subscribe(*arguments, **options)


async def test_it_is_entered_once_and_read_inside() -> None:
    events = subscribe("g")
    with pytest.raises(RuntimeError, match="async with"):
        await anext(events)
    async with events:
        pass
    with pytest.raises(RuntimeError, match="once"):
        await events.__aenter__()
