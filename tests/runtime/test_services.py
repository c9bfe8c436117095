"""A hub's tasks are nobody's: they outlive what they raise, and know no visitor."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import InMemoryChannelLayer, channel_layers
from django.contrib.auth.models import User
from django.core.asgi import get_asgi_application
from django.test import AsyncClient, Client

from sse_app import publish, snapshot
from sse_app.access import readers, revalidation, revocations
from sse_app.access.control_group import ControlGroup, read_control_position
from sse_app.access.revalidation import Revalidator
from sse_app.asgi import event_stream_application
from sse_app.conf import site_tag
from sse_app.delivery import hub
from sse_app.delivery.hub import Hub, get_hub, running_hubs
from sse_app.delivery.subscriptions import Subscription
from sse_app.eventlog import MemoryEventLog, event_log
from sse_app.operations import health
from sse_app.protocol.cursors import Position
from sse_app.protocol.events import Event
from sse_app.protocol.groups import CONTROL_GROUP, shared_group
from sse_app.publishing import outbox
from sse_app.runtime import services
from sse_app.runtime.services import Service, SharedTasks, spawn
from sse_app.runtime.telemetry import COUNTS
from sse_app.testing import stream

from ..support.patience import PATIENCE
from ..support.subscribers import ListSink, Reader


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "PAUSE_SECONDS", (0.01, 0.04))


# --- what ends begins again ---

ENDS = [
    KeyError("on purpose"),
    SystemExit("on purpose"),
    KeyboardInterrupt("on purpose"),
    GeneratorExit("on purpose"),
    asyncio.CancelledError("on purpose"),
    None,
]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", ENDS, ids=repr)
async def test_a_service_begins_again_whatever_ended_it(
    error: BaseException | None, caplog: pytest.LogCaptureFixture
) -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            if error is not None:
                raise error
            return
        await asyncio.Event().wait()

    before = COUNTS.restarts.get("test", 0)
    service = Service("test", work)
    await until(lambda: service.error)
    await until(lambda: runs == 2 and not service.error)
    assert COUNTS.restarts["test"] == before + 1
    (record,) = [r for r in caplog.records if "service test ended" in r.message]
    assert ("on purpose" if error is not None else "returned") in record.getMessage()
    service.close()


@pytest.mark.usefixtures("quick")
async def test_a_service_that_cancels_its_own_task_begins_again() -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        task = asyncio.current_task()
        if runs == 1 and task is not None:
            task.cancel()
        await asyncio.Event().wait()

    service = Service("test", work)
    await until(lambda: runs == 2)
    await asyncio.wait([service.close()])
    assert runs == 2


@pytest.mark.usefixtures("quick")
async def test_one_that_ends_each_time_is_down_all_the_while_and_said_once_a_pause(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    down: list[str] = []
    runs = 0
    real = Service._after

    def after(self: Service, seconds: float, then: Callable[..., None], *args: object) -> None:
        if then == self._again:
            pauses.append(seconds)
        real(self, seconds, then, *args)

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs > 1:
            down.append(service.error)
        raise RuntimeError("on purpose")

    monkeypatch.setattr(Service, "_after", after)
    service = Service("test", work)
    await until(lambda: runs == 5)
    service.close()
    assert pauses[:4] == [0.01, 0.02, 0.04, 0.04]
    assert down == ["RuntimeError"] * 4
    assert len([r for r in caplog.records if "service test ended" in r.message]) == len(pauses)


@pytest.mark.usefixtures("quick")
async def test_closed_while_it_pauses_it_does_not_begin_again() -> None:
    async def work() -> None:
        raise RuntimeError("on purpose")

    service = Service("test", work)
    await until(lambda: service.error)
    service.close()
    assert service._timer is None


async def test_a_service_in_which_a_policy_catches_the_cancellation_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(services, "CANCEL_SECONDS", 0.01)
    asked = asyncio.Event()

    async def policy() -> bool:
        asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return False

    async def work() -> None:
        await policy()
        await asyncio.Event().wait()

    running = services.Services()
    running.run("test", work)
    await asked.wait()
    async with asyncio.timeout(PATIENCE):
        await running.close()


@pytest.mark.usefixtures("memory", "quick")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "name", ["receive", "watch", "check", "sweep", "rejoin", "prune", "tick", "revalidator"]
)
async def test_health_names_the_service_of_a_hub_that_is_down(
    name: str, async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = await Reader().start("g")
    service = get_hub().services._services[name]
    running = service._task
    real = service._work
    failing = True

    async def work() -> None:
        if failing:
            raise KeyError("on purpose")
        await real()

    service._work = work
    running.cancel()  # As its own code could: nobody closed the hub.
    await until(lambda: service.error == "KeyError")
    answer = await async_client.get("/events/health/")
    assert (answer.status_code, answer.json()["services"]) == (503, {name: "KeyError"})
    failing = False
    await until(lambda: not service.error)
    monkeypatch.setattr(health, "_kept", None)  # A hub that did not receive had no answer.
    assert (await async_client.get("/events/health/")).status_code == 200
    publish("g", "n", "still")
    await reader.sink.until("still")
    await reader.stop()


@pytest.mark.usefixtures("memory", "quick")
async def test_a_control_listener_that_ends_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    applied: list[revocations.Revocation] = []
    failing = True

    def apply(revocation: revocations.Revocation) -> None:
        nonlocal failing
        if failing:
            failing = False
            raise asyncio.CancelledError
        applied.append(revocation)

    monkeypatch.setattr(readers, "apply", apply)
    reader = await Reader().start("g")
    for user in ("1", "2"):
        outbox.send(await told(user))
        await until(lambda: not failing)
    await until(lambda: applied)
    assert [revocation.user for revocation in applied] == ["2"]
    await reader.stop()


async def told(user: str) -> list[Event]:
    return await event_log().aappend([revocations.Revocation(user=user).to_event()])


async def test_streams_that_were_held_when_the_revalidator_ended_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    revalidator, looked = Revalidator(), list[Collection[Any]]()
    held = SimpleNamespace()

    async def look(due: Collection[Any]) -> bool:
        looked.append(due)
        return True

    monkeypatch.setattr(revalidation, "held_readers", lambda loop: [held])
    monkeypatch.setattr(revalidator, "round", look)
    running = asyncio.create_task(revalidator.run())
    await until(lambda: looked)
    assert looked == [[held]]
    running.cancel()


# --- what is registered to run beside a hub ---


class Noted:
    """A service of a hub that starts when a test lets it."""

    name = "noted"
    made: list[Noted]
    failures: list[Exception]
    gate: asyncio.Event

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.made.append(self)

    async def start(self, hub: Hub) -> None:
        self.calls.append("start")
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop()
        assert list(hub.topics) == [CONTROL_GROUP], "no reader has been let in"

    async def run(self) -> None:
        self.calls.append("run")
        await asyncio.Event().wait()

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def noted(memory: None, monkeypatch: pytest.MonkeyPatch) -> type[Noted]:
    Noted.made, Noted.failures, Noted.gate = [], [], asyncio.Event()
    monkeypatch.setattr(hub, "_kinds", hub._kinds.copy())
    for _ in range(2):
        hub.register_service(Noted)
    return Noted


async def test_no_reader_joins_a_hub_before_its_services_have_started(noted: type[Noted]) -> None:
    joining = [asyncio.create_task(Reader().start(group)) for group in "gh"]
    await until(lambda: noted.made and noted.made[0].calls)
    late = asyncio.create_task(Reader().start("g"))
    joining[0].cancel()  # The start is not only the first reader's.
    for _ in range(20):
        await asyncio.sleep(0)
    assert not joining[1].done()
    assert not late.done()
    noted.gate.set()
    readers = [await joining[1], await late]
    (service,) = noted.made
    assert get_hub().service(Noted) is service
    assert service.calls == ["start", "run"]
    for reader in readers:
        await reader.stop()
    assert service.calls == ["start", "run", "close"]


async def test_a_service_that_can_not_start_fails_the_join_and_is_started_by_the_next(
    noted: type[Noted],
) -> None:
    holder = Subscription(ListSink(), ["held"])
    shared = get_hub()
    shared.subscriptions.add(holder)  # So that the hub lives on.
    noted.gate.set()
    noted.failures.append(ConnectionError("on purpose"))
    with pytest.raises(ConnectionError, match="on purpose"):
        await Reader().start("g")
    assert "g" not in shared.topics
    assert "noted" not in shared.services._services
    reader = await Reader().start("g")
    (service,) = noted.made
    assert service.calls == ["start", "start", "run"]
    await shared.leave(holder)
    await reader.stop()


async def test_a_client_is_asked_to_come_again_if_a_service_can_not_start(
    noted: type[Noted], settings: Any
) -> None:
    settings.SSE_APP |= {"PUBLIC_GROUPS": ["g"]}
    noted.gate.set()
    noted.failures.append(KeyError("on purpose"))
    async with stream(None, "group=g") as refused:
        assert [(event.name, event.json()) for event in refused.received] == [
            ("sse.busy", {"reason": "log"})
        ]
    assert running_hubs() == []
    assert noted.made[0].calls == ["start", "close"]
    async with stream(None, "group=g") as opened:
        assert opened.opened
        assert noted.made[1].calls == ["start", "run"]


@pytest.mark.parametrize("opened", [False, True])
async def test_a_hub_that_has_closed_takes_nobody_in(noted: type[Noted], *, opened: bool) -> None:
    closed = get_hub()
    if opened:
        noted.gate.set()
        await (await Reader().start("g")).stop()
    else:
        joining = asyncio.create_task(Reader().start("g"))
        await until(lambda: noted.made[0].calls)
    await closed.close()
    if not opened:
        with pytest.raises(asyncio.CancelledError):
            await joining
    before = asyncio.all_tasks()
    subscription = Subscription(ListSink(), ["g"])
    for enter in (closed.join, closed.attach):
        with pytest.raises(RuntimeError, match="closed"):
            await enter(subscription)
    assert asyncio.all_tasks() == before
    assert not closed.topics
    assert not closed.subscriptions
    assert noted.made[0].calls[-1] == "close"


@pytest.mark.usefixtures("memory")
async def test_a_hub_that_is_closed_leaves_its_groups_on_the_layer() -> None:
    channel_layers.backends.clear()  # Earlier tests took channels from hubs, which stay members.
    reader = await Reader().start("g")
    layer_groups = channel_layers["default"].groups
    await until(lambda: shared_group(site_tag()) in layer_groups)
    await reader.hub.close()
    assert not layer_groups
    await reader.stop()


# --- they are nobody's ---

visitor: ContextVar[str] = ContextVar("visitor", default="nobody")
seen: dict[str, set[str]] = {}


def look(what: str) -> None:
    seen.setdefault(what, set()).add(visitor.get())


class LookingLayer(InMemoryChannelLayer):  # type: ignore[misc]  # channels has no types
    async def new_channel(self, prefix: str = "specific.") -> str:
        look("new_channel")
        return await super().new_channel(prefix)

    async def group_add(self, group: str, channel: str) -> None:
        look("group_add")
        await super().group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        look("group_discard")
        await super().group_discard(group, channel)

    async def receive(self, channel: str) -> Any:
        look("receive")
        return await super().receive(channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        look("group_send")
        await super().group_send(group, message)


class LookingLog(MemoryEventLog):
    prunes_itself = False

    async def aheads(self, groups: Collection[str]) -> dict[str, Position]:
        look("aheads")
        return await super().aheads(groups)

    async def asince(self, group: str, after: Position, limit: int) -> list[Event]:
        look("asince")
        return await super().asince(group, after, limit)

    async def anumber(self, groups: Collection[str] | None = None) -> list[Event]:
        look("anumber")
        return await super().anumber(groups)

    def prune(self, limit: int | None = None) -> int:
        look("prune, in a thread")
        return super().prune(limit)


def permitting(user: Any, group: str, request: Any) -> bool:
    look("policy" if threading.current_thread() is threading.main_thread() else "policy, threaded")
    return True


@pytest.fixture
def looking(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings.SSE_APP = {
        "EVENT_LOG": "tests.runtime.test_services.LookingLog",
        "MAY_LISTEN": "tests.runtime.test_services.permitting",
        "CHECK_INTERVAL": 0.05,
        "SWEEP_INTERVAL": 0.05,
        "PRUNE_INTERVAL": 0.05,
        "REVALIDATE_INTERVAL": 600,
    }
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "tests.runtime.test_services.LookingLayer"}}
    monkeypatch.setattr("sse_app.delivery.snapshots._sources", {})
    seen.clear()
    yield
    channel_layers.backends.clear()


BACKGROUND = {
    *("new_channel", "group_add", "receive", "group_send", "aheads", "asince", "anumber"),
    *("prune, in a thread", "state", "state, in a thread"),
}


@pytest.mark.usefixtures("looking")
@pytest.mark.django_db(transaction=True)
async def test_nothing_of_the_first_visitor_stays_with_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    application = event_stream_application(get_asgi_application())

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        visitor.set("ann")
        await application(scope, receive, send)

    @snapshot("threaded")
    def state_in_thread(group: str) -> str:
        look("state, in a thread")
        return "here"

    @snapshot("awaited")
    async def state(group: str) -> str:
        look("state")
        return "here"

    monkeypatch.setattr("sse_app.testing.streaming.get_default_application", lambda: middleware)
    client = Client()
    user = await asyncio.to_thread(signed_in, client)
    publish("history", "n", "1")
    query = "group=threaded&group=awaited&group=history"
    async with stream(client, query) as first:
        await first.take(2)
        async with stream(client, "group=history&from=earliest") as second:
            assert (await second.next()).data == "1"
        assert seen.pop("policy, threaded") == {"ann"}
        # Asked again, since a right has changed: by the revalidator, and in no visitor's name.
        await asyncio.to_thread(change_rights, user)
        await until(lambda: BACKGROUND | {"policy, threaded"} <= seen.keys())
    told = {what: who for what, who in seen.items() if who != {"nobody"}}
    assert told == {}


def signed_in(client: Client) -> User:
    user = User.objects.create_user("ann")
    client.force_login(user)
    return user


def change_rights(user: User) -> None:
    from django.contrib.auth.models import Group

    user.groups.add(Group.objects.create(name="red"))


# --- when the control group is read ---


@pytest.mark.usefixtures("memory")
async def test_only_without_a_hub_the_control_group_is_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Sequence[str]] = []
    real = MemoryEventLog.aheads

    async def aheads(self: MemoryEventLog, groups: Collection[str]) -> dict[str, Position]:
        asked.append(sorted(groups))
        return await real(self, groups)

    monkeypatch.setattr(MemoryEventLog, "aheads", aheads)
    before, *others = await asyncio.gather(*(read_control_position() for _ in range(100)))
    assert set(others) == {before}
    assert asked == [[CONTROL_GROUP]], "one read for all who come at once"
    reader = await Reader().start("g")
    asked.clear()
    assert await read_control_position() == before
    assert [CONTROL_GROUP] not in asked
    (event,) = await told("1")
    await reader.hub.heal(CONTROL_GROUP)
    control_group = reader.hub.service(ControlGroup)
    await until(lambda: control_group.position == event.position)
    assert await read_control_position() == control_group.position
    assert await control_group.missed(before) == [], "this hub hears of it itself"
    await reader.stop()
    await told("2")
    reader = await Reader().start("g")
    control_group = reader.hub.service(ControlGroup)
    assert [r.user for r in await control_group.missed(before)] == ["1", "2"]
    assert await control_group.missed(await read_control_position()) == []
    lost = Position("other", 1)
    assert await control_group.missed(lost) == [revocations.Revocation(review=True)]
    await reader.stop()


# --- one task for all who ask for the same ---


async def test_a_task_is_shared_until_it_ends_and_outlives_a_caller_who_leaves() -> None:
    tasks, free, begun = SharedTasks(), asyncio.Event(), 0

    async def work() -> int:
        nonlocal begun
        begun += 1
        number = begun
        await free.wait()
        return number

    leaving, *staying = [asyncio.create_task(tasks.result("key", work)) for _ in range(3)]
    await until(lambda: begun)
    leaving.cancel()
    free.set()
    assert await asyncio.gather(*staying) == [1, 1]
    assert await tasks.result("key", work) == 2


@pytest.mark.usefixtures("memory")
def test_no_event_loop_is_kept_once_it_has_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_kept", None)
    # A server without ASGI has a loop for each request that an async view answers.
    for ask in (read_control_position, health.probed):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(ask())
        loop.close()
        kept = weakref.ref(loop)
        del loop
        asyncio.run(sync_to_async(int)())  # asgiref's thread keeps the loop of its last call.
        gc.collect()
        assert kept() is None


async def test_a_task_that_is_cancelled_before_it_begins_says_nothing() -> None:
    async def work() -> None:
        raise AssertionError("it has begun")

    task = spawn(work)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
