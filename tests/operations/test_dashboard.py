"""The dashboard over real Daphne processes: its feed, and its page in Chromium."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from ..support.other_servers import Uvicorn, documented
from ..support.pages import WATCH
from ..support.patience import PATIENCE
from ..support.servers import Daphne, Server, StreamReader, eventually
from ..support.sleepers import MORE_THAN_THE_SYSTEM_KEEPS, connect, run

FEED = "/admin/sse_app/serverprocess/feed/"
LIST = "/admin/sse_app/serverprocess/"
HOSTILE = "<img src=x onerror=pwned()>"
MAKE = """
from django.contrib.auth.models import Permission, User
user, made = User.objects.get_or_create(username={name!r})
user.set_password("secret")
user.is_staff = {staff!r}
user.save()
codes = {codes!r}
user.user_permissions.set(Permission.objects.filter(codename__in=codes))
result = user.pk
"""
ALL = ("view_serverprocess", "end_streams", "read_events", "send_broadcast")


def make_user(
    server: Server, name: str, *, staff: bool = False, codes: tuple[str, ...] = ()
) -> int:
    return int(run(server, MAKE.format(name=name, staff=staff, codes=codes)))


class Visitor:
    """Somebody's client, signed in."""

    def __init__(self, server: Server, name: str) -> None:
        self.client = httpx.AsyncClient(base_url=server.url, timeout=PATIENCE)
        self.name = name

    async def sign_in(self) -> Visitor:
        await self.client.post("/test/login/", data={"name": self.name})
        return self

    @asynccontextmanager
    async def read(self, url: str) -> AsyncIterator[StreamReader]:
        async with self.client.stream("GET", url) as response:
            assert response.status_code == 200
            yield StreamReader(response)


async def until(stream: StreamReader, name: str, check: Callable[[Any], object] = bool) -> Any:
    """Return the data of the first event of that name for which `check` is true."""
    async with asyncio.timeout(PATIENCE):
        while True:
            event = await stream.next()
            if event.name == name and check(event.json()):
                return event.json()


@pytest.fixture
def pair(make_daphne: Callable[..., Daphne]) -> tuple[Daphne, Daphne]:
    """Two processes that share a SQLite file and nothing else."""
    servers = make_daphne(STALL_SECONDS=600), make_daphne(STALL_SECONDS=600)
    make_user(servers[0], "boss", staff=True, codes=ALL)
    return servers


# --- the feed ---


@pytest.mark.slow
async def test_the_feed_tells_of_all_processes(
    pair: tuple[Daphne, Daphne],
) -> None:
    one, two = pair
    boss = await Visitor(one, "boss").sign_in()
    ann = await Visitor(two, "ann").sign_in()
    async with boss.read(FEED) as feed, ann.read("/events/?group=orders") as stream:
        await stream.next()
        listed = await until(feed, "streams", lambda said: said["rows"])
        (row,) = listed["rows"]
        assert (row["user"], row["groups"], row["state"]) == ("ann", ["orders"], "live")
        assert row["address"] == "127.0.0.1"
        two.publish("orders", "n", "1")
        groups = await until(feed, "groups", lambda said: any(r["published"] for r in said["rows"]))
        assert groups["rows"][0]["name"] == "orders"
        assert groups["rows"][0]["subscribers"] == 1
        totals = await until(feed, "totals", lambda said: said["open"].get("live"))
        assert totals["open"]["live"] == 1
        processes = await until(feed, "processes", lambda said: len(said) == 2)
        assert all(process["health"]["layer"] == "ok" for process in processes)


@pytest.mark.parametrize(
    "ending",
    [
        "from django.contrib.sessions.models import Session\nSession.objects.all().delete()",
        "User.objects.filter(username='boss').update(is_active=False)",
        "User.objects.filter(username='boss').update(is_staff=False)",
        "User.objects.get(username='boss').user_permissions.clear()",
        "User.objects.filter(username='boss').delete()",
        "user = User.objects.get(username='boss')\nuser.set_password('x')\nuser.save()",
    ],
    ids=["logout", "deactivated", "no staff", "permission", "deleted", "password"],
)
async def test_the_feed_ends_when_the_right_to_it_does(daphne: Daphne, ending: str) -> None:
    make_user(daphne, "boss", staff=True, codes=ALL)
    boss = await Visitor(daphne, "boss").sign_in()
    async with boss.read(FEED) as feed:
        await until(feed, "totals")
        code = f"from django.contrib.auth.models import User\n{ending}"
        await asyncio.to_thread(run, daphne, code)
        rest = await feed.until_end()
    assert rest[-1].name == "sse.close"
    assert rest[-1].json() == {"reason": "auth"}
    assert (await boss.client.get(FEED)).status_code == 403


@pytest.mark.slow
async def test_the_feed_shows_nothing_while_nobody_can_say_who_may_look(daphne: Daphne) -> None:
    make_user(daphne, "boss", staff=True, codes=ALL)
    boss = await Visitor(daphne, "boss").sign_in()
    rename = "from django.db import connection\nconnection.cursor().execute({!r})"
    away = "ALTER TABLE django_session RENAME TO away"
    back = "ALTER TABLE away RENAME TO django_session"
    async with boss.read(FEED) as feed:
        await until(feed, "totals")
        await asyncio.to_thread(run, daphne, rename.format(away))
        await until(feed, "away", lambda said: said == {})
        seen = [(await feed.next()).name for _ in range(2)]
        assert seen == ["away", "away"]
        await asyncio.to_thread(run, daphne, rename.format(back))
        await until(feed, "totals")


@pytest.mark.slow
async def test_the_feed_says_farewell_when_it_is_old_or_the_server_stops(daphne: Daphne) -> None:
    make_user(daphne, "boss", staff=True, codes=ALL)
    boss = await Visitor(daphne, "boss").sign_in()
    run(
        daphne,
        "from sse_app.operations.dashboard import stream\nstream.LIFE_SECONDS = 2",
    )
    async with boss.read(FEED) as feed:
        (*_, last) = await feed.until_end()
        assert last.json() == {"reason": "age"}
    async with boss.read(FEED) as feed:
        await until(feed, "totals")
        stopping = asyncio.create_task(asyncio.to_thread(daphne.stop))
        await feed.until_end()
        await stopping


@pytest.mark.slow
async def test_a_server_that_waits_for_its_responses_does_not_wait_for_a_feed(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(Uvicorn, options=documented(Uvicorn))
    make_user(server, "boss", staff=True, codes=ALL)
    boss = await Visitor(server, "boss").sign_in()
    async with boss.read(FEED) as feed:
        await until(feed, "totals")
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        (*_, last) = await feed.until_end()
        assert (last.name, last.json()) == ("sse.close", {"reason": "shutdown"})
        await stopping


@pytest.mark.slow
async def test_many_dashboards_share_each_look(daphne: Daphne) -> None:
    make_user(daphne, "boss", staff=True, codes=ALL)
    boss = await Visitor(daphne, "boss").sign_in()
    run(
        daphne,
        "from sse_app.operations.dashboard import poller\n"
        "poller.FRESH_SECONDS = 3600\n"
        "polled, poll = [], poller.Poller._poll\n"
        "def counted(self):\n"
        "    polled.append(1)\n"
        "    return poll(self)\n"
        "poller.Poller._poll, poller.polled = counted, polled\n",
    )

    async def watch() -> int:
        async with boss.read(FEED) as feed:
            for _ in range(5):
                await until(feed, "totals")
            return 5

    assert await asyncio.gather(*(watch() for _ in range(6))) == [5] * 6
    polled = await asyncio.to_thread(
        run,
        daphne,
        "from sse_app.operations.dashboard import poller\nresult = len(poller.polled)",
    )
    assert polled == 1


# --- the page ---


@pytest.fixture
def open_page(browser: Browser, pair: tuple[Daphne, Daphne]) -> Iterator[Callable[..., Page]]:
    """Open a page as somebody who is signed in; whatever goes wrong in it fails the test."""
    contexts, errors = [], []

    def open_page(path: str = LIST, name: str = "boss", **options: Any) -> Page:
        context = browser.new_context(base_url=pair[0].url, **options)
        contexts.append(context)
        context.request.post("/test/login/", form={"name": name})
        page = context.new_page()
        page.add_init_script(WATCH)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path)
        return page

    yield open_page
    for page in [page for context in contexts for page in context.pages]:
        assert page.evaluate("window.ran") == [], "something ran, or the policy kept it from it"
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def readers(pair: tuple[Daphne, Daphne]) -> Iterator[Callable[..., httpx.Response]]:
    """Open streams that are read in no other way than by the system's buffers."""
    clients: list[Any] = []

    def read(server: Daphne, query: str, name: str = "") -> httpx.Response:
        client = httpx.Client(base_url=server.url, timeout=PATIENCE)
        if name:
            client.post("/test/login/", data={"name": name})
        response = client.send(client.build_request("GET", f"/events/?{query}"), stream=True)
        clients.extend([response, client])
        return response

    yield read
    for client in clients:
        client.close()


def row_of(page: Page, text: str) -> Locator:
    return page.locator("[data-testid=streams] tr[data-stream]").filter(has_text=text)


@pytest.mark.slow
def test_streams_of_all_processes_appear_and_their_numbers_move(
    open_page: Callable[..., Page], readers: Callable[..., Any], pair: tuple[Daphne, Daphne]
) -> None:
    one, two = pair
    page = open_page()
    expect(page.get_by_test_id("feed")).to_have_attribute("data-state", "live")
    readers(one, "group=orders", "ann")
    readers(two, "group=orders&group=chat.a&event=line", HOSTILE)
    expect(row_of(page, "ann")).to_contain_text("orders")
    expect(row_of(page, HOSTILE)).to_contain_text("orders, chat.a (only line)")
    expect(row_of(page, "ann").locator("[data-state]")).to_have_text("Live")
    expect(page.locator("[data-figure=open] dd").first).to_have_text("2")
    expect(page.get_by_test_id("processes").locator("tr")).to_have_count(2)
    one.publish("orders", "n", "x" * 20_000)
    expect(row_of(page, "ann")).to_contain_text("20.")
    expect(page.get_by_test_id("groups").locator("tr").first).to_contain_text("orders")
    line = page.locator("[data-chart=delivered] .sse-line")
    eventually(lambda: line.get_attribute("d"))


@pytest.mark.slow
def test_a_reader_that_takes_nothing_shows_as_lagging(
    open_page: Callable[..., Page], pair: tuple[Daphne, Daphne]
) -> None:
    sleeper = connect(pair[1])
    run(pair[1], MORE_THAN_THE_SYSTEM_KEEPS)
    page = open_page()
    state = page.locator("[data-testid=streams] [data-state=lagging]")
    expect(state).to_have_text("Lagging")
    expect(page.locator("[data-figure=lagged] dd").first).not_to_have_text("0")
    page.select_option("[name=state]", "live")
    expect(page.locator("[data-testid=streams]")).to_have_text("No matching streams.")
    page.select_option("[name=state]", "lagging")
    expect(state).to_have_count(1)
    assert page.url.endswith("state=lagging&sort=newest"), "a reload shows the same"
    page.reload()
    expect(state).to_have_count(1)
    sleeper.close()


@pytest.mark.slow
def test_a_button_ends_just_one_stream_in_another_process_and_its_page_stays_away(
    open_page: Callable[..., Page], readers: Callable[..., Any], pair: tuple[Daphne, Daphne]
) -> None:
    _, two = pair
    ended, other = readers(two, "group=orders", "ann"), readers(two, "group=chat.a", "ann")
    page = open_page()
    row_of(page, "orders").get_by_role("button", name="End stream").click()
    expect(page.get_by_role("dialog")).to_contain_text("End this stream of ann?")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    row_of(page, "orders").get_by_role("button", name="End stream").click()
    page.get_by_role("dialog").get_by_role("button", name="End").click()
    expect(page.get_by_test_id("said")).to_contain_text("was ended")
    text = ended.read().decode()
    assert 'event: sse.close\ndata: {"reason":"auth"}' in text
    assert "retry: 3600000" in text
    expect(row_of(page, "orders")).to_have_count(0)
    expect(row_of(page, "chat.a")).to_have_count(1)
    assert two.streams() == 1
    page.select_option("[name=state]", "ended")
    expect(row_of(page, "orders")).to_contain_text("Ended (auth)")
    other.close()


@pytest.mark.slow
def test_all_streams_of_a_user_end_in_all_processes(
    open_page: Callable[..., Page], readers: Callable[..., Any], pair: tuple[Daphne, Daphne]
) -> None:
    one, two = pair
    hers = [readers(server, "group=orders", "ann") for server in pair]
    readers(two, "group=orders", "bob")
    page = open_page()
    expect(row_of(page, "ann")).to_have_count(2)
    row_of(page, "ann").first.get_by_role("button", name="End all streams of ann").click()
    expect(page.get_by_role("dialog")).to_contain_text("grants of open pages are revoked")
    page.get_by_role("dialog").get_by_role("button", name="End").click()
    for response in hers:
        assert '"auth"' in response.read().decode()
    expect(row_of(page, "ann")).to_have_count(0)
    expect(row_of(page, "bob")).to_have_count(1)
    assert (one.streams(), two.streams()) == (0, 1)


@pytest.mark.slow
def test_who_may_only_look_sees_no_buttons(
    open_page: Callable[..., Page], readers: Callable[..., Any], pair: tuple[Daphne, Daphne]
) -> None:
    make_user(pair[0], "guest", staff=True, codes=("view_serverprocess",))
    readers(pair[0], "group=orders", "ann")
    page = open_page(name="guest")
    expect(row_of(page, "ann")).to_have_count(1)
    expect(page.get_by_role("button", name="End")).to_have_count(0)
    expect(page.get_by_test_id("groups").locator("a")).to_have_count(0)


def test_an_event_is_found_in_its_group_sent_again_and_explained(
    open_page: Callable[..., Page], readers: Callable[..., Any], pair: tuple[Daphne, Daphne]
) -> None:
    one, two = pair
    one.publish("orders", "order.updated", '{"text": "</script><script>pwned()</script>"}')
    stream = readers(two, "group=orders", "ann")
    lines = stream.iter_lines()
    page = open_page()
    page.get_by_test_id("groups").get_by_role("link", name="orders").click()
    expect(page.get_by_test_id("head")).to_have_text("1")
    expect(page.get_by_test_id("events")).to_contain_text("</script><script>pwned()")
    page.get_by_role("link", name="Send again").click()
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".messagelist")).to_contain_text("The event was sent to orders.")
    expect(page.get_by_test_id("head")).to_have_text("2")
    assert "event: order.updated" in next(line for line in lines if "updated" in line)
    page.goto(LIST)
    row_of(page, "ann").get_by_role("link", name="Why did stream").click()
    for offset, reason in ((1, "before"), (2, "sent"), (3, "unpublished")):
        page.get_by_label("Offset").fill(str(offset))
        verdict: str | None = "coming"
        while verdict == "coming":  # By the last report of the process, which may be old.
            with page.expect_navigation():
                page.get_by_role("button", name="Ask").click()
            verdict = page.get_by_test_id("verdict").get_attribute("data-reason")
        assert verdict == reason


@pytest.mark.slow
def test_the_page_says_when_its_feed_breaks_and_goes_on_by_itself(
    open_page: Callable[..., Page], pair: tuple[Daphne, Daphne]
) -> None:
    page = open_page()
    feed = page.get_by_test_id("feed")
    expect(feed).to_have_attribute("data-state", "live")
    pair[0].stop()
    expect(feed).to_have_text("Reconnecting…")
    pair[0].start()
    expect(feed).to_have_text("Live")


@pytest.mark.slow
def test_the_page_says_when_its_user_may_not_look_any_more(
    open_page: Callable[..., Page], pair: tuple[Daphne, Daphne]
) -> None:
    page = open_page()
    feed = page.get_by_test_id("feed")
    expect(feed).to_have_attribute("data-state", "live")
    make_user(pair[0], "boss", staff=True)
    expect(feed).to_have_attribute("data-state", "auth")
    expect(feed).to_contain_text("Sign in")


@pytest.mark.slow
def test_the_focus_stays_on_a_stream_that_changes_its_place(
    open_page: Callable[..., Page], readers: Callable[..., Any], pair: tuple[Daphne, Daphne]
) -> None:
    one, _ = pair
    readers(one, "group=orders", "ann")
    readers(one, "group=chat.a", "bob")
    one.publish("orders", "n", "x" * 5000)
    page = open_page(f"{LIST}?sort=bytes")
    rows = page.locator("[data-testid=streams] tr[data-stream]")
    expect(rows.first).to_contain_text("ann")
    button = row_of(page, "bob").get_by_role("button", name="End stream")
    button.focus()
    one.publish("chat.a", "n", "x" * 20_000)
    expect(rows.first).to_contain_text("bob")
    expect(button).to_be_focused()


@pytest.mark.slow
def test_what_somebody_does_survives_the_updates(
    open_page: Callable[..., Page], readers: Callable[..., Any], pair: tuple[Daphne, Daphne]
) -> None:
    one, _ = pair
    readers(one, "group=orders", "ann")
    page = open_page()
    button = row_of(page, "ann").get_by_role("button", name="End stream")
    button.focus()
    page.evaluate(
        "getSelection().selectAllChildren(document.querySelector('[data-testid=streams] th'))"
    )
    readers(one, "group=orders", "bob")
    one.publish("orders", "n", "x" * 5000)
    expect(row_of(page, "bob")).to_have_count(1)
    expect(row_of(page, "ann")).to_contain_text("5.")
    expect(button).to_be_focused()
    assert page.evaluate("getSelection().toString()").strip() == "ann"
    page.get_by_role("button", name="Pause").click()
    readers(one, "group=orders", "carl")
    expect(page.get_by_test_id("feed")).to_have_text("Paused")
    expect(page.locator("[data-figure=open] dd").first).to_have_text("3")
    expect(row_of(page, "carl")).to_have_count(0)
    page.get_by_role("button", name="Resume").click()
    expect(row_of(page, "carl")).to_have_count(1)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_has_the_admins_colours(
    open_page: Callable[..., Page],
    readers: Callable[..., Any],
    pair: tuple[Daphne, Daphne],
    scheme: str,
) -> None:
    readers(pair[0], "group=orders", "ann")
    page = open_page(color_scheme=scheme, viewport={"width": 360, "height": 700})
    expect(row_of(page, "ann")).to_have_count(1)
    width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(width) == 0
    colour = "getComputedStyle(document.querySelector('.sse-chart-now')).color"
    expected = {"light": "rgb(0, 0, 0)", "dark": "rgb(255, 255, 255)"}
    assert page.evaluate(colour) == expected[scheme]
