"""What the page's script asks of a stream that tabs share: labels, limits, several grants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from sse_app.delivery.cohorts import LEAST_MEMBERS
from sse_app.protocol.cursors import group_hash

from ..support.patience import PATIENCE
from ..support.servers import Daphne, eventually
from ..support.sleepers import run
from ..support.streams import raw


@pytest.fixture
def site(make_daphne: Callable[..., Daphne]) -> Daphne:
    return make_daphne(GRANT_AGE=60)


async def test_a_labelled_stream_says_whose_each_event_is_and_no_other_changes(
    site: Daphne,
) -> None:
    query = "group=orders&group=import"
    async with site.stream(query) as plain, site.stream(f"{query}&label=1") as labelled:
        for group in ("orders", "import"):
            site.publish(group, "n", "1")
            site.publish(group, "n", "2", "publish-passing")
        site.publish("orders", "n", "last")
        bare, marked = await raw(plain, b"data: last\n"), await raw(labelled, b"data: last\n")
    assert b"group:" not in bare
    assert [line for line in marked.split(b"\n") if line.startswith(b"group:")] == [
        *[b"group: orders"] * 2,
        *[b"group: import"] * 2,
        b"group: orders",
    ]
    # But for that line, they get the same.
    first, second = bare.split(b"\n\n", 1)[1], marked.split(b"\n\n", 1)[1]
    assert second.replace(b"group: orders\n", b"").replace(b"group: import\n", b"") == first


async def test_only_a_labelled_stream_is_told_the_limits(
    make_daphne: Callable[..., Daphne],
) -> None:
    site = make_daphne(HEARTBEAT=7.5, MAX_GROUPS=3)
    async with site.stream("group=orders") as plain, site.stream("group=clock&label=1") as own:
        assert (await plain.next()).json().keys() == {"recovered", "missed", "groups", "connection"}
        told = (await own.next()).json()
    assert (told["heartbeat"], told["max_groups"], told["user"]) == (7.5, 3, "")


async def test_the_places_in_the_first_id_are_in_the_order_of_the_groups(site: Daphne) -> None:
    """By that the script knows which place in an id is which group's."""
    groups = ["orders", "chat.b", "clock", "chat.a"]
    async with site.stream("&".join(f"group={group}" for group in groups) + "&label=1") as stream:
        first = await stream.next()
    assert first.json()["groups"] == groups
    parts = [part.split("-")[0] for part in first.id.split(".")[1:]]
    assert parts == [group_hash(group) for group in groups]


COHORTS = """
from sse_app.delivery.hub import running_hubs
(hub,) = running_hubs()
result = sorted([kind[1], len(cohort)] for kind, cohort in hub.topics["orders"].cohorts.items())
"""


async def test_labelled_streams_are_written_to_as_one_apart_from_others(site: Daphne) -> None:
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(site.stream(f"group=orders{label}"))
            for label in ("", "&label=1")
            for _ in range(LEAST_MEMBERS)
        ]
        for stream in streams:
            await stream.next()
        expected = [[False, LEAST_MEMBERS], [True, LEAST_MEMBERS]]
        eventually(lambda: run(site, COHORTS) == expected)
        site.publish("orders", "n", "1")
        for number, stream in enumerate(streams):
            received = await raw(stream, b"data: 1\n")
            assert (b"group: orders\n" in received) is (number >= LEAST_MEMBERS)
            # Also counted are those of other kinds.
            told = b"streams: %d\n" % len(streams) in received
            assert told is (number >= LEAST_MEMBERS)


# --- several grants ---


@pytest.fixture
def ann(site: Daphne) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE) as client:
        client.post("/test/login/", data={"name": "ann"})
        yield client


def grant(client: httpx.Client, *groups: str) -> str:
    tag = "{% sse_url " + " ".join(f'"{group}"' for group in groups) + " %}"
    url = client.get(f"/test/page/?tag={quote(tag)}").text
    return str(httpx.URL(f"http://x{url}").params["grant"])


def listen(client: httpx.Client, **params: Any) -> tuple[int, Any]:
    """The status, and the groups or the reason."""
    with client.stream("GET", "/events/", params=params) as response:
        if response.status_code != 200:
            return response.status_code, None
        lines = response.iter_lines()
        data = next(line for line in lines if line.startswith("data: "))
        told = httpx.Response(200, text=data.removeprefix("data: ")).json()
        return 200, told.get("groups") or told.get("reason")


def test_several_grants_give_what_all_of_them_do(site: Daphne, ann: httpx.Client) -> None:
    red, blue = grant(ann, "team.red"), grant(ann, "team.blue", "team.red")
    assert listen(ann, grant=[red, blue], group="orders") == (
        200,
        ["orders", "team.red", "team.blue"],
    )


def test_each_of_several_grants_is_verified_on_its_own(site: Daphne, ann: httpx.Client) -> None:
    red = grant(ann, "team.red")
    with httpx.Client(base_url=site.url, timeout=PATIENCE) as bob:
        bob.post("/test/login/", data={"name": "bob"})
        blue = grant(bob, "team.blue")
        for wrong in (blue, blue[:-1], "x", ""):
            for grants in ([red, wrong], [wrong, red]):
                assert listen(ann, grant=grants)[0] == 403
        assert listen(bob, grant=[blue]) == (200, ["team.blue"])


def test_what_one_of_several_grants_does_not_name_is_not_given(
    site: Daphne, ann: httpx.Client
) -> None:
    grants = [grant(ann, "team.red"), grant(ann, "team.blue")]
    assert listen(ann, grant=grants, group="team.green")[0] == 403


#: Two grants: the first one expires in three seconds, the second one in an hour.
TWO_AGES = """
from dataclasses import replace
from django.contrib.auth.models import User
from sse_app.access.grants import Grant
ann = User.objects.get(username="ann")
first, second = (Grant.to(ann, [group]) for group in ("team.red", "team.blue"))
result = [replace(first, issued=first.issued - 3597).sign(), second.sign()]
"""


async def test_a_stream_of_several_grants_ends_with_the_first_of_them(
    make_daphne: Callable[..., Daphne],
) -> None:
    site = make_daphne(GRANT_AGE=3600)

    def given() -> tuple[str, str, dict[str, str]]:
        with httpx.Client(base_url=site.url, timeout=PATIENCE) as ann:
            ann.post("/test/login/", data={"name": "ann"})
            return *run(site, TWO_AGES), dict(ann.cookies)

    first, second, cookies = await asyncio.to_thread(given)

    async def ends_with(grants: list[str]) -> str:
        query = "&".join(f"grant={quote(text)}" for text in grants)
        async with (
            httpx.AsyncClient(cookies=cookies, timeout=PATIENCE) as client,
            site.stream(query, client=client) as stream,
        ):
            return (await stream.until_end())[-1].data

    ends = await asyncio.gather(ends_with([first, second]), ends_with([second, first]))
    assert set(ends) == {'{"reason":"expired"}'}, "the second expires in an hour"
    assert await ends_with([second, first]) == '{"reason":"expired"}'


def test_as_many_grants_as_groups_are_looked_at_and_no_more(
    make_daphne: Callable[..., Daphne],
) -> None:
    site = make_daphne(MAX_GROUPS=2)
    with httpx.Client(base_url=site.url, timeout=PATIENCE) as ann:
        ann.post("/test/login/", data={"name": "ann"})
        red, blue, both = (
            grant(ann, "team.red"),
            grant(ann, "team.blue"),
            grant(ann, "team.red", "team.blue"),
        )
        assert listen(ann, grant=[red, blue])[0] == 200
        assert listen(ann, grant=[red, blue, both])[0] == 400
