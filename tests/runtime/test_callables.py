"""Whatever the project's functions raise is an `Exception`, and ends nothing but their call."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import httpx
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.utils.translation import get_language, override

from sse_app.asgi import guard
from sse_app.runtime import threads
from sse_app.runtime.callables import CallbackFailed, contained, in_callers_thread, in_thread
from sse_app.runtime.threads import Threads
from sse_app.signals import Signal

from ..support.patience import PATIENCE
from ..support.servers import Daphne, StreamReader, eventually
from ..support.sleepers import run
from ..support.visitors import Visitor, farewell

NO_EXCEPTIONS = [
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError(),
    BaseException("on purpose"),
]


@pytest.mark.django_db  # The thread may have a connection of an earlier test, which is looked at.
@pytest.mark.parametrize("serving", [False, True])
@pytest.mark.parametrize(
    "error", [*NO_EXCEPTIONS, StopIteration(), concurrent.futures.CancelledError()], ids=repr
)
async def test_what_is_no_exception_becomes_one(
    error: BaseException, serving: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_serving", serving)

    def fail() -> None:
        raise error

    async def fail_async() -> None:
        await asyncio.sleep(0)
        raise error

    with pytest.raises(CallbackFailed) as caught, contained():
        fail()
    assert caught.value.__cause__ is error
    with pytest.raises(CallbackFailed):
        await in_thread(fail)
    with pytest.raises(CallbackFailed):
        await in_callers_thread(fail)
    with pytest.raises(CallbackFailed):
        await Threads().call(None, PATIENCE, fail)
    # Python itself turns the StopIteration of a coroutine into a RuntimeError.
    with pytest.raises((CallbackFailed, RuntimeError)), contained():
        await fail_async()


@pytest.mark.parametrize("serving", [False, True])
async def test_a_function_in_a_thread_sees_the_callers_context(
    serving: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_serving", serving)
    tenant = ContextVar("tenant", default="none")
    tenant.set("caller's")

    def look() -> tuple[str, str]:
        seen = tenant.get()
        tenant.set("function's")
        return seen, get_language()

    with override("de"):
        assert await in_thread(look) == ("caller's", "de")
    assert tenant.get() == "function's"


async def test_in_a_server_a_function_and_async_code_of_it_have_a_thread_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "_serving", True)
    shared = await sync_to_async(threading.get_ident)()

    async def ask() -> int:
        return await sync_to_async(threading.get_ident)()

    def look() -> tuple[int, int]:
        return threading.get_ident(), async_to_sync(ask)()

    own, within = await in_thread(look)
    assert own == within != shared


async def test_an_exception_stays_as_it_is() -> None:
    with pytest.raises(KeyError, match="on purpose"), contained():
        raise KeyError("on purpose")


async def test_a_task_that_is_cancelled_from_outside_is_cancelled() -> None:
    begun = asyncio.Event()

    async def wait() -> None:
        with contained():
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await wait()


async def test_a_coroutine_that_is_closed_from_outside_is_closed() -> None:
    async def wait() -> None:
        with contained():
            await asyncio.sleep(0)

    begun: list[Any] = []

    async def begin() -> None:
        waiting = wait()
        waiting.send(None)
        begun.append(waiting)

    await asyncio.create_task(begin())
    begun[0].close()  # Raises what the coroutine makes of `GeneratorExit`.


def test_ctrl_c_in_a_program_without_an_event_loop_passes() -> None:
    with pytest.raises(KeyboardInterrupt), contained():
        raise KeyboardInterrupt


@pytest.mark.parametrize("error", NO_EXCEPTIONS, ids=repr)
async def test_a_receiver_of_a_signal_takes_nothing_from_the_others(error: BaseException) -> None:
    signal, told = Signal(), []

    def fail(**kwargs: Any) -> None:
        raise error

    async def fail_async(**kwargs: Any) -> None:
        raise error

    def hear(**kwargs: Any) -> None:
        told.append(kwargs["what"])

    async def hear_async(**kwargs: Any) -> None:
        told.append(kwargs["what"])

    for receiver in (fail, fail_async, hear, hear_async):
        signal.connect(receiver)
    await signal.asend_robust(sender=None, what="async")
    assert told == ["async", "async"]
    signal.disconnect(fail_async)
    signal.disconnect(hear_async)
    thread = threading.Thread(target=lambda: signal.send_robust(sender=None, what="sync"))
    thread.start()
    thread.join()
    assert told == ["async", "async", "sync"]


async def test_a_single_async_receiver_costs_no_task() -> None:
    signal, told = Signal(), []

    async def hear(**named: Any) -> None:
        told.append(named)

    signal.connect(hear)
    sending = signal.asend_robust(sender=Signal, what="opened")
    with pytest.raises(StopIteration) as ended:
        sending.send(None)
    assert told == [{"signal": signal, "sender": Signal, "what": "opened"}]
    assert ended.value.value == [(hear, None)]


async def test_the_apps_own_receivers_cost_no_task_and_take_nothing_from_the_others() -> None:
    signal, told = Signal(), []

    def fail(sender: Any, **named: Any) -> None:
        raise RuntimeError("on purpose")

    def hear(sender: Any, **named: Any) -> None:
        told.append(named["what"])

    for receiver in (fail, hear, hear):
        signal.connect_own(receiver)
    sending = signal.asend_robust(sender=None, what="opened")
    with pytest.raises(StopIteration):  # It ends without a pause, so without a task.
        sending.send(None)
    assert told == ["opened"]


# --- over a real server ---

ENDINGS = ["SystemExit", "KeyboardInterrupt", "CancelledError", "GeneratorExit", "StopIteration"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_policy_that_does_not_answer_ends_neither_the_server_nor_the_revalidator(
    make_daphne: Callable[..., Daphne], kind: str
) -> None:
    site = make_daphne(MAY_LISTEN=f"tests.policies.ending_{kind}", REVALIDATE_INTERVAL=600)
    ann = await Visitor(site, "ann").sign_in()
    async with ann.stream("group=secret") as stream:
        for error in ENDINGS:
            await set_error(site, error)
            async with site.stream("group=secret") as refused:
                assert (await refused.next()).json() == {"reason": "policy"}
            asked = await asyncio.to_thread(run, site, ASKED)
            await asyncio.to_thread(run, site, CHANGED.format(pk=ann.pk))
            # Held, and asked again until the policy answers.
            await asyncio.to_thread(eventually, lambda n=asked: run(site, ASKED) > n)
            await set_error(site, "")
            await asyncio.to_thread(site.publish, "secret", "n", error)
            assert (await stream.next()).data == error
            assert ask_health(site).status_code == 200
        await set_error(site, "SystemExit")
        await asyncio.to_thread(run, site, "from tests import policies\npolicies.refusing.set()")
        await asyncio.to_thread(run, site, CHANGED.format(pk=ann.pk))
        await set_error(site, "")
        assert (await farewell(stream))[0] == "auth"


ASKED = "from tests import policies\nresult = policies.calls"
CHANGED = """
from django.contrib.auth.models import Group, User
group = Group.objects.create(name=f"red {{Group.objects.count()}}")
User.objects.get(pk={pk}).groups.add(group)
"""


async def set_error(site: Daphne, name: str) -> None:
    code = f"from tests import policies\npolicies.error = {name!r}"
    await asyncio.to_thread(run, site, code)


def ask_health(site: Daphne) -> httpx.Response:
    return httpx.get(f"{site.url}/events/health/", timeout=PATIENCE)


HANDLER = """
import asyncio, builtins
from sse_app import on

@on("end.{error}")
{kind} end(message):
    raise getattr(builtins, "{error}", getattr(asyncio, "{error}", None))

result = None
"""


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_handler_that_exits_is_an_error_of_its_request(
    shared_daphne: Daphne, kind: str
) -> None:
    ann = await Visitor(shared_daphne, "ann").sign_in()
    await ann.client.get("/test/page/", params={"tag": "{% csrf_token %}"})
    headers = {"X-CSRFToken": ann.client.cookies["csrftoken"]}
    async with shared_daphne.stream("group=orders") as stream:
        await stream.next()
        for error in ENDINGS[:-1]:
            code = HANDLER.format(error=error, kind=kind)
            await asyncio.to_thread(run, shared_daphne, code)
            body = {"group": "orders", "event": f"end.{error}", "data": None}
            answer = await ann.client.post("/events/send/", json=body, headers=headers)
            assert answer.status_code == 500
        shared_daphne.publish("orders", "n", "still")
        assert (await stream.next()).data == "still"


async def test_an_iterable_that_exits_ends_its_response_only(
    shared_daphne: Daphne,
) -> None:
    async with shared_daphne.stream("group=orders") as stream:
        await stream.next()
        async with httpx.AsyncClient(base_url=shared_daphne.url, timeout=PATIENCE) as client:
            for error in ENDINGS[:-1]:
                url = f"/test/ending/?error={error}"
                async with client.stream("GET", url) as response:
                    *_, last = await StreamReader(response).until_end()
                assert last.json() == {"reason": "error"}
        shared_daphne.publish("orders", "n", "still")
        assert (await stream.next()).data == "still"


@pytest.mark.parametrize("error", NO_EXCEPTIONS, ids=repr)
async def test_a_consumer_that_exits_is_an_answer(error: BaseException) -> None:
    async def consumer(scope: Any, receive: Any, send: Any) -> None:
        raise error

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/events/", "headers": []}
    await guard(consumer, busy=True)(scope, asyncio.Queue().get, send)
    assert b'{"reason":"error"}' in b"".join(message.get("body", b"") for message in sent)


async def test_an_iterable_may_await_what_is_cancelled() -> None:
    from sse_app.responses import EventStreamResponse

    async def events() -> AsyncIterator[Any]:
        yield "first"
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    body = b"".join([chunk async for chunk in EventStreamResponse(events())])  # type: ignore[union-attr]
    assert b"first" in body
    assert b'"reason":"error"' in body
