"""`exclude=`: the page that causes an event does not get the event; all other pages do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest
from django.test import RequestFactory, override_settings

from sse_app import apublish, apublish_many, publish, publish_template
from sse_app.delivery.cohorts import LEAST_MEMBERS
from sse_app.protocol.events import Event, Excluded
from sse_app.protocol.replies import connection_id
from sse_app.publishing.inbox import Message
from sse_app.publishing.senders import HEADER, MOST_STREAMS, pages_of
from sse_app.testing import stream
from sse_app.testing.streaming import TestStream

from ..support.servers import Daphne, StreamReader, eventually
from ..support.sleepers import run
from ..support.streams import raw

pytestmark = pytest.mark.django_db(transaction=True)

PUBLIC = override_settings(SSE_APP={"PUBLIC_GROUPS": ["orders"]})


def request_of(header: str, user: Any = None) -> HttpRequest:
    request = RequestFactory().post("/", headers={HEADER: header})
    request.user = AnonymousUser() if user is None else user
    return request


# --- who is excluded ---


def test_the_header_names_the_pages_of_the_requests_user() -> None:
    ann, bob = User(pk=1, username="ann"), User(pk=2, username="bob")
    own, others, nobodys = (connection_id(*of) for of in [("a1", "1"), ("b2", "2"), ("c3", "")])
    header = f"{own};tab=t-1, {others};tab=t-2,{nobodys}; tab=t-3,{own}"
    assert pages_of(request_of(header, ann)) == (
        Excluded("a1", "1", "t-1"),
        Excluded("a1", "1", ""),
    )
    assert pages_of(request_of(header, bob)) == (Excluded("b2", "2", "t-2"),)
    assert pages_of(request_of(header)) == (Excluded("c3", "", "t-3"),)
    many = ",".join([own] * (MOST_STREAMS + 5))
    assert len(pages_of(request_of(many, ann))) == MOST_STREAMS
    message = Message(ann, "orders", "n", None, request_of(""), "a1", "t-1")
    assert pages_of(message) == (Excluded("a1", "1", "t-1"),)
    assert pages_of(Message(ann, "orders", "n", None, request_of(""))) == ()
    assert pages_of(None) == pages_of(RequestFactory().get("/")) == ()


@pytest.mark.parametrize(
    "header",
    ["", ",", ";", "a1", "a1:x", "OWN;tab=", "OWN;tab=a b", "OWN;x=1", "OWN;tab=\x00é", "é" * 9],
)
def test_a_malformed_header_excludes_nobody(header: str) -> None:
    ann = User(pk=1, username="ann")
    assert pages_of(request_of(header.replace("OWN", connection_id("a1", "1")), ann)) == ()


@pytest.mark.parametrize("wrong", ["a1", 5, {"stream": "a1"}, AnonymousUser()])
def test_what_is_no_sender_is_an_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="give the request that causes the event"):
        publish("orders", "n", exclude=wrong)


@pytest.mark.parametrize("pages", ["ab", [["a"]], [["a", "b", 3]], 5, [5]])
def test_a_malformed_layer_message_is_an_error(pages: Any) -> None:
    message = Event.of("orders", "n", "").to_message() | {"excluded": pages}
    with pytest.raises((TypeError, ValueError)):
        Event.from_message(message)


def test_an_event_without_exclude_has_no_trace_of_it() -> None:
    event = Event.of("orders", "n", "").exclude(())
    assert "excluded" not in event.__dict__
    assert "excluded" not in event.to_message()
    assert event.excluded_text == ""


# --- what pages get ---


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> dict[TestStream, list[str]]:
    """All lines that each stream got."""
    found: dict[TestStream, list[str]] = defaultdict(list)
    parse = TestStream._line

    def noted(self: TestStream, line: str) -> None:
        found[self].append(line)
        parse(self, line)

    monkeypatch.setattr(TestStream, "_line", noted)
    return found


def excepted(lines: list[str]) -> int:
    return sum(line.startswith("except:") for line in lines)


@PUBLIC
@pytest.mark.parametrize("durable", [True, False])
async def test_a_stream_without_tabs_gets_no_event_of_its_own(durable: bool) -> None:
    async with stream(None, "group=orders") as own, stream(None, "group=orders") as other:
        request = request_of(own.opened["connection"])
        await apublish("orders", "n", "1", exclude=request, durable=durable)
        await apublish_many([("orders", "n", "2")], exclude=request, durable=durable)
        last = await apublish("orders", "n", "3")
        assert [(await other.next()).data for _ in "123"] == ["1", "2", "3"]
        seen = [await own.next() for _ in range(3 if durable else 1)]
        # After a reconnect the stream has another id, so the cursor moves at once.
        assert [each.name for each in seen] == ["sse.cursor"] * (len(seen) - 1) + ["n"]
        assert last.offset == (3 if durable else 1)
    if durable:
        async with stream(None, f"group=orders&last_event_id={seen[1].id}") as again:
            assert (await again.next()).data == "3"


@PUBLIC
async def test_a_tab_is_named_in_the_event_for_its_own_stream_only(
    lines: dict[TestStream, list[str]],
) -> None:
    ann = await sync_to_async(User.objects.create_user)("ann")
    bob = await sync_to_async(User.objects.create_user)("bob")
    query = "group=orders&label=1"
    async with stream(ann, query) as own, stream(bob, query) as other:
        header = f"{own.opened['connection']};tab=t-1"
        await apublish("orders", "n", "1", exclude=request_of(header, ann))
        # The signature is of ann: bob can't hide events in her tab.
        await apublish("orders", "n", "2", exclude=request_of(header, bob))
        await own.take(2)
        await other.take(2)
    assert "except: t-1\ngroup: orders\nevent: n\ndata: 1\n" in "\n".join(lines[own])
    assert (excepted(lines[own]), excepted(lines[other])) == (1, 0)
    # After a reconnect the tab has another stream, which learns of the exclusion from the log.
    start = own.received[0].id
    async with (
        stream(ann, f"{query}&last_event_id={start}") as own,
        stream(bob, f"{query}&last_event_id={start}") as other,
        stream(None, f"{query}&last_event_id={start}") as anonymous,
    ):
        for each in (own, other, anonymous):
            await each.take(2)
    assert [excepted(lines[each]) for each in (own, other, anonymous)] == [1, 0, 0]


@PUBLIC
async def test_an_anonymous_tab_is_named_on_its_own_stream_only(
    lines: dict[TestStream, list[str]],
) -> None:
    query = "group=orders&label=1"
    async with stream(None, query) as own, stream(None, query) as other:
        header = f"{own.opened['connection']};tab=t-1"
        await apublish("orders", "n", "1", exclude=request_of(header))
        await own.next()
        await other.next()
    assert (excepted(lines[own]), excepted(lines[other])) == (1, 0)


def test_a_template_is_published_to_the_others(settings: Any) -> None:
    settings.TEMPLATES = [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {"loaders": [("django.template.loaders.locmem.Loader", {"row": "x"})]},
        }
    ]
    message = Message(AnonymousUser(), "orders", "n", None, request_of(""), "a1", "t-1")
    event = publish_template("orders", "n", "row", exclude=message)
    assert event.excluded == (Excluded("a1", "", "t-1"),)


# --- over a real server, whose streams are written to together ---

MEMBERS = """
from sse_app.delivery.hub import running_hubs
result = sum(len(each) for hub in running_hubs() for each in hub.topics["orders"].cohorts.values())
"""
COUNT_LEAVES = """
from sse_app.delivery.cohorts import Cohort
real, Cohort.leaves = Cohort._remove, 0
def counted(self, *args):
    Cohort.leaves += 1
    real(self, *args)
Cohort._remove = counted
"""
PUBLISH = """
from django.contrib.auth.models import AnonymousUser
from sse_app import publish
from sse_app.publishing.inbox import Message
from sse_app.protocol.replies import stream_of
stream = stream_of({connection!r}, "")
publish("orders", "n", "1", exclude=Message(AnonymousUser(), "", "", None, None, stream, {tab!r}))
publish("orders", "n", "2")
"""


async def test_an_excluded_member_of_a_cohort_leaves_alone(
    make_daphne: Callable[..., Daphne],
) -> None:
    site = make_daphne(HEARTBEAT=60)
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(site.stream("group=orders&label=1"))
            for _ in range(LEAST_MEMBERS + 2)
        ]
        connections = [(await each.next()).json()["connection"] for each in streams]
        eventually(lambda: run(site, MEMBERS) == len(streams))
        run(site, COUNT_LEAVES + "result = 0")
        run(site, PUBLISH.format(connection=connections[3], tab="t-1") + "result = 0")
        for number, each in enumerate(streams):
            received = await raw(each, b"data: 2\n")
            assert received.count(b"except: t-1\n") == (number == 3)
            assert received.count(b"data: 1\n") == 1
        leaves = "from sse_app.delivery.cohorts import Cohort\nresult = Cohort.leaves"
        assert run(site, leaves) == 1


async def test_a_process_without_a_common_layer_excludes_by_the_log(
    make_daphne: Callable[..., Daphne],
) -> None:
    first, second = make_daphne(), make_daphne()
    async with first.stream("group=orders") as own, first.stream("group=orders") as other:
        connection = (await own.next()).json()["connection"]
        await other.next()
        run(second, PUBLISH.format(connection=connection, tab="") + "result = 0")

        async def shown(each: StreamReader) -> list[str]:
            seen = []
            while not seen or seen[-1] != "2":
                seen += [event.data for event in [await each.next()] if event.name == "n"]
            return seen

        assert (await shown(own), await shown(other)) == (["2"], ["1", "2"])
