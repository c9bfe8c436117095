"""Policies that take their time, and who does not wait for them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import AnonymousUser, User
from django.core.asgi import get_asgi_application
from django.db import transaction
from django.test import RequestFactory, TestCase, override_settings

from sse_app.access.authorization import may_listen_from_sync
from sse_app.asgi import event_stream_application
from sse_app.runtime import threads
from sse_app.runtime.threads import CALLS_AT_ONCE

from ..selection import first_then_slow
from ..support.patience import PATIENCE
from ..support.servers import Daphne, eventually
from ..support.visitors import NEVER, USER, Visitor, farewell, publish, run

KINDS = ["sync", "async"]
HANGING = "from tests import policies\nresult = len(policies.hanging)"
ANSWER = "from tests import policies\npolicies.answering.set()\nresult = policies.most_running"
CHANGED = USER + "Group.objects.create(name=f'g{{Group.objects.count()}}').user_set.add(user)"


def ask_health(site: Daphne) -> httpx.Response:
    return httpx.get(f"{site.url}/events/health/", timeout=PATIENCE)


async def until_hanging(site: Daphne, calls: int) -> None:
    """Wait until the policy has been asked so often without an answer."""
    async with asyncio.timeout(PATIENCE):
        while await run(site, HANGING) < calls:  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.01)


@asynccontextmanager
async def waiting(site: Daphne, visitors: int) -> AsyncIterator[None]:
    """Visitors whose policy does not answer."""

    async def visit(number: int) -> None:
        async with httpx.AsyncClient(timeout=None) as client:
            await client.get(f"{site.url}/events/?group=hang.{number}")

    tasks = [asyncio.create_task(visit(number)) for number in range(visitors)]
    try:
        await until_hanging(site, min(visitors, CALLS_AT_ONCE))
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("kind", first_then_slow(KINDS))
async def test_only_visitors_that_need_a_policy_wait_for_it(
    make_daphne: Callable[..., Daphne], kind: str
) -> None:
    settings: dict[str, Any] = {"REVALIDATE_INTERVAL": NEVER, "CHECK_INTERVAL": 0.1}
    policy = f"tests.policies.hanging_{kind}"
    site = make_daphne(MAY_LISTEN=policy, POLICY_SECONDS=NEVER, **settings)
    elsewhere = make_daphne(**settings)
    ann = await Visitor(site, "ann").sign_in()
    async with AsyncExitStack() as open_streams:
        enter = open_streams.enter_async_context
        before = await enter(Visitor(site, "").stream("group=orders"))
        await enter(waiting(site, CALLS_AT_ONCE + 2))
        later = await enter(Visitor(site, "").stream("group=orders"))
        signed_in = await enter(ann.stream(f"group=user.{ann.pk}"))
        await publish(elsewhere, "orders", "from elsewhere")
        for stream in (before, later):
            assert (await stream.next()).data == "from elsewhere"
        await run(
            elsewhere,
            USER.format(pk=ann.pk) + "from sse_app import disconnect\ndisconnect(user=user)",
        )
        assert (await farewell(signed_in))[0] == "auth"
        assert ask_health(site).status_code == 200
        await asyncio.to_thread(site.stop, signal.SIGTERM)
        assert site.process is not None
        assert site.process.returncode == 0


@pytest.mark.parametrize("kind", first_then_slow(KINDS))
async def test_a_policy_that_does_not_answer_in_time_is_a_passing_trouble(
    make_daphne: Callable[..., Daphne], kind: str
) -> None:
    policy = f"tests.policies.hanging_{kind}"
    site = make_daphne(MAY_LISTEN=policy, MAY_SPEAK=policy, POLICY_SECONDS=0.3)
    visitor = Visitor(site, "")
    for _ in range(CALLS_AT_ONCE + 1):  # At last there is no thread.
        async with visitor.client.stream("GET", "/events/?group=hang") as answer:
            assert answer.status_code == 200
            body = (await answer.aread()).decode()
        assert 'event: sse.busy\ndata: {"reason":"policy"}' in body
    await visitor.client.get("/test/page/", params={"tag": "{% csrf_token %}"})
    headers = {"X-CSRFToken": visitor.client.cookies["csrftoken"]}
    for path, sent in (
        ("send", {"group": "hang", "event": "n"}),
        ("ticket", {"groups": ["hang"]}),
    ):
        refused = await visitor.client.post(f"/events/{path}/", json=sent, headers=headers)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5"), path
    assert site.text().count(f"The policy {policy} failed") == 1
    await asyncio.to_thread(site.stop, signal.SIGTERM)
    assert site.process is not None
    assert site.process.returncode == 0


@pytest.mark.parametrize("kind", first_then_slow(KINDS))
async def test_a_policy_that_hangs_for_one_stream_holds_no_other_stream(
    make_daphne: Callable[..., Daphne], kind: str
) -> None:
    site = make_daphne(
        MAY_LISTEN=f"tests.policies.hanging_{kind}", POLICY_SECONDS=NEVER, REVALIDATE_INTERVAL=NEVER
    )
    ann, bob = await Visitor(site, "ann").sign_in(), await Visitor(site, "bob").sign_in()
    await run(site, "from tests import policies\npolicies.answering.set()")
    async with ann.stream("group=hang") as hers, bob.stream("group=secret&group=orders") as his:
        await run(site, "from tests import policies\npolicies.answering.clear()")
        await run(site, CHANGED.format(pk=ann.pk))
        await until_hanging(site, 2)
        await run(site, CHANGED.format(pk=bob.pk))
        await publish(site, "secret", "still")
        assert (await his.next()).data == "still", "the policy was asked, and permits it"
        await run(site, "from sse_app import disconnect\ndisconnect(group='secret')")
        assert (await his.next()).json() == {"group": "secret", "reason": "unknown"}
        await publish(site, "hang", "held")
        assert hers.parser.events[1:] == []
        await run(site, ANSWER)
        assert (await hers.next()).data == "held"


async def test_not_all_streams_ask_their_policy_at_once(
    make_daphne: Callable[..., Daphne],
) -> None:
    site = make_daphne(
        MAY_LISTEN="tests.policies.hanging_async", POLICY_SECONDS=NEVER, REVALIDATE_INTERVAL=NEVER
    )
    ann = await Visitor(site, "ann").sign_in()
    await run(site, "from sse_app.access import revalidation\nrevalidation.AT_ONCE = 2")
    await run(site, "from tests import policies\npolicies.answering.set()")
    async with AsyncExitStack() as open_streams:
        streams = [
            await open_streams.enter_async_context(ann.stream(f"group=hang.{n}")) for n in range(4)
        ]
        await run(site, "from tests import policies\npolicies.answering.clear()")
        await run(site, CHANGED.format(pk=ann.pk))
        await until_hanging(site, 4 + 2)
        assert await run(site, ANSWER) == 2
        for number, stream in enumerate(streams):
            await publish(site, f"hang.{number}", "permitted")
            assert (await stream.next()).data == "permitted"
        assert await run(site, ANSWER) == 2


@pytest.mark.slow
@pytest.mark.parametrize("told", [True, False], ids=["by a signal", "by the fingerprint"])
async def test_a_stream_whose_policy_fails_for_long_ends_and_meets_the_policy_again(
    make_daphne: Callable[..., Daphne], told: bool
) -> None:
    interval = NEVER if told else 0.2
    policy = "tests.policies.at_times"
    site = make_daphne(MAY_LISTEN=policy, POLICY_SECONDS=1, REVALIDATE_INTERVAL=interval)
    ann = await Visitor(site, "ann").sign_in()
    async with ann.stream("group=secret") as stream:
        await run(site, "from tests import policies\npolicies.failing.set()")
        silently = "User.objects.filter(pk=user.pk).update(is_staff=True)"
        change = CHANGED if told else USER + silently
        await run(site, change.format(pk=ann.pk))
        failed = f"The policy {policy} failed"
        await asyncio.to_thread(eventually, lambda: failed in site.text())
        await publish(site, "secret", "not shown")
        assert [event.name for event in await stream.until_end()] == ["sse.close"]
        assert stream.parser.events[-1].json() == {"reason": "unverified"}
        assert stream.parser.retry < 10_000
    async with ann.client.stream("GET", "/events/?group=secret") as answer:
        assert '{"reason":"policy"}' in (await answer.aread()).decode()
    assert site.text().count(failed) == 1


HANDLER = """
import threading
from sse_app import on

@on("hang")
def hang(message):
    hanging.append(True)
    answering.wait()

hanging, answering = [], threading.Event()
"""
HANDLING = """
from sse_app.publishing import inbox
names = inbox._handlers["hang"][0].__globals__
result = len(names["hanging"])
"""


async def test_only_its_request_waits_for_a_handler(make_daphne: Callable[..., Daphne]) -> None:
    site = make_daphne()
    ann = await Visitor(site, "ann").sign_in()
    await run(site, HANDLER)
    await ann.client.get("/test/page/", params={"tag": "{% csrf_token %}"})
    headers = {"X-CSRFToken": ann.client.cookies["csrftoken"]}
    body = {"group": f"user.{ann.pk}", "event": "hang"}
    send = partial(ann.client.post, "/events/send/", json=body, headers=headers, timeout=None)
    sent = [asyncio.create_task(send()) for _ in range(CALLS_AT_ONCE + 2)]
    async with asyncio.timeout(PATIENCE):
        while await run(site, HANDLING) < len(sent):  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.01)
    async with ann.stream(f"group=user.{ann.pk}") as stream:
        await publish(site, f"user.{ann.pk}", "still")
        assert (await stream.next()).data == "still"
    await run(site, HANDLING + 'names["answering"].set()')
    assert {answer.status_code for answer in await asyncio.gather(*sent)} == {200}


RECEIVER = """
import threading
from sse_app.signals import stream_opened

def hang(sender, stream, **kwargs):
    if stream.user.is_authenticated:
        hanging.set()
        threading.Event().wait()

hanging = threading.Event()
stream_opened.connect(hang, weak=False)
"""
HANGS = """
from sse_app.signals import stream_opened
result = any(one.__globals__["hanging"].is_set() for _, one, *_ in stream_opened.receivers
             if getattr(one, "__name__", "") == "hang")
"""


async def test_only_the_stream_of_its_signal_waits_for_a_receiver(
    make_daphne: Callable[..., Daphne],
) -> None:
    site = make_daphne(POLICY_SECONDS=NEVER)
    ann = await Visitor(site, "ann").sign_in()
    await run(site, RECEIVER)
    hers = asyncio.create_task(ann.client.get(f"/events/?group=user.{ann.pk}", timeout=None))
    async with asyncio.timeout(PATIENCE):
        while not await run(site, HANGS):  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.01)
    async with Visitor(site, "").stream("group=orders") as stream:
        await publish(site, "orders", "still")
        assert (await stream.next()).data == "still"
        await asyncio.to_thread(site.stop, signal.SIGTERM)
    await asyncio.wait([hers])
    assert site.process is not None
    assert site.process.returncode == 0


@pytest.mark.django_db(transaction=True)
def test_in_a_views_transaction_a_policy_sees_its_rows(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_serving", True)
    settings.SSE_APP = {"MAY_LISTEN": "tests.policies.has_row"}
    request = RequestFactory().get("/")
    with transaction.atomic():
        User.objects.create(username="row")
        assert may_listen_from_sync(AnonymousUser(), ["row"], request)
    assert may_listen_from_sync(AnonymousUser(), ["row"], request), "in another thread"


@override_settings(SSE_APP={"MAY_LISTEN": "tests.policies.has_row"})
class InATransactionOfATest(TestCase):
    """Own threads would not see the rows of the test."""

    async def test_a_policy_sees_the_rows_of_the_test(self) -> None:
        await User.objects.acreate(username="row.1")
        statuses = {}
        for group in ("row.1", "row.2"):
            scope = {
                "type": "http",
                "method": "GET",
                "path": "/events/",
                "query_string": f"group={group}".encode(),
                "headers": [(b"host", b"localhost")],
            }
            application = event_stream_application(get_asgi_application())
            asked = ApplicationCommunicator(application, scope)
            await asked.send_input({"type": "http.request"})
            statuses[group] = (await asked.receive_output(PATIENCE))["status"]
            await asked.send_input({"type": "http.disconnect"})
            await asked.wait(PATIENCE)
        assert statuses == {"row.1": 200, "row.2": 403}
