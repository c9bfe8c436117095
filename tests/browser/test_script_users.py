"""One browser, several users: pages share a connection with pages of the same user only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Route

from ..selection import first_then_slow
from ..support.chromium import CHROMIUM, FLAGS
from ..support.servers import Daphne, eventually
from ..support.sleepers import run
from ..support.tabs import PAGE, Tab, Tabs, open_tabs, publish

__all__ = ["open_tabs"]

BARE = "/test/page/?tag=" + quote('<script type="module" src="/static/sse_app/sse.js"></script>')


@pytest.fixture
def site(make_daphne: Callable[..., Daphne]) -> Daphne:
    # With heartbeats as they are by default: a busy machine must not look like a dead network.
    return make_daphne(RETRY=[0.2, 0.3], PRESENCE_GROUPS=["orders"])


@pytest.fixture
def tabs(site: Daphne, open_tabs: Callable[[str], Tabs]) -> Tabs:
    return open_tabs(site.url)


def become(tabs: Tabs, other: Tabs) -> None:
    """Give this browser the session of another one: no login, so the server is told nothing."""
    tabs.context.add_cookies(
        [cookie for cookie in other.context.cookies() if cookie["name"] == "sessionid"]  # type: ignore[misc]
    )


def hears(site: Daphne, *tabs: Tab, first: int) -> None:
    """Publish three numbers, and see that each tab has these, and those before, once."""
    publish(site, range(first, first + 3))
    for tab in tabs:
        tab.until(f"heard.at(-1) === {first + 2}")
        tab.until_open()


def test_who_signs_in_over_another_session_is_not_joined_to_its_connection(
    site: Daphne, tabs: Tabs
) -> None:
    ann = tabs.sign_in("ann")
    private, public = tabs.open(tabs.url_of(f"user.{ann}")), tabs.open("group=orders")
    site.until_streams(1)
    publish(site, range(1), f"user.{ann}")
    private.until_heard(1)
    tabs.sign_in("bob")
    private.until("stream.state === 'closed'")
    assert private.states[-1] == "closed auth"
    his = tabs.open("group=orders")
    # Her public page is Bob's by now, and shares with his. A stream that is refused together with
    # others would leave each of them a connection of its own, so it comes after that.
    site.until_streams(1)
    snoop = tabs.begin(f"group=user.{ann}")
    snoop.until("stream.state === 'closed'")
    assert snoop.states[-1] == "closed refused: HTTP 403"
    publish(site, range(1, 3), f"user.{ann}")
    hears(site, public, his, first=10)
    assert (private.heard, snoop.heard) == ([0], [])
    assert public.heard == his.heard == [10, 11, 12]
    site.until_streams(1)
    assert "closed" not in " ".join(public.states + his.states)


@pytest.mark.parametrize(
    "page", first_then_slow([PAGE, BARE]), ids=["with the tag", "without the tag"]
)
def test_a_session_that_changed_without_a_word_is_not_shared(
    site: Daphne, tabs: Tabs, open_tabs: Callable[[str], Tabs], page: str
) -> None:
    ann = tabs.sign_in("ann")
    private = tabs.open(tabs.url_of(f"user.{ann}"))
    other = open_tabs(site.url)
    other.sign_in("bob")
    become(tabs, other)
    tabs.page = page
    # The first of his tabs has to lead, and the second to follow the first: both could follow hers.
    first, his = tabs.begin(f"group=user.{ann}"), tabs.open("group=orders")
    second = tabs.begin(f"group=user.{ann}")
    for snoop in (first, second):
        snoop.until("stream.state === 'closed'")
    publish(site, range(2), f"user.{ann}")
    private.until_heard(2)
    hears(site, his, first=10)
    assert (private.heard, his.heard) == ([0, 1], [10, 11, 12])
    for snoop in (first, second):
        assert (snoop.heard, snoop.states[-1]) == ([], "closed refused: HTTP 403")
        assert "open" not in snoop.states


def test_pages_that_do_not_say_whose_they_are_share_once_the_server_has_said_it(
    site: Daphne, tabs: Tabs
) -> None:
    ann = tabs.sign_in("ann")
    tabs.page = BARE
    pair = [tabs.open(f"group=user.{ann}&group=orders") for _ in range(2)]
    tabs.page = PAGE
    pair.append(tabs.open("group=orders"))
    site.until_streams(1)
    hears(site, *pair, first=0)
    assert [tab.heard for tab in pair] == [[0, 1, 2]] * 3


@pytest.mark.slow
def test_a_page_from_a_cache_is_whose_session_it_is(
    site: Daphne, tabs: Tabs, open_tabs: Callable[[str], Tabs]
) -> None:
    tabs.sign_in("ann")
    kept = tabs.context.request.get(PAGE).text()
    other = open_tabs(site.url)
    other.sign_in("bob")
    become(tabs, other)
    assert kept != tabs.context.request.get(PAGE).text()
    fresh = tabs.open("group=orders")
    tabs.context.route("**/test/page/**", lambda route: route.fulfill(body=kept))
    cached = tabs.open("group=orders&group=clock")
    site.until_streams(1)
    hears(site, fresh, cached, first=0)
    assert fresh.heard == cached.heard == [0, 1, 2]


@pytest.mark.slow
def test_a_stranger_who_signs_in_keeps_every_event_and_comes_to_share_with_the_new_page(
    site: Daphne, tabs: Tabs
) -> None:
    before = [tabs.open("group=orders") for _ in range(2)]
    hears(site, *before, first=0)
    tabs.sign_in("ann")
    after = tabs.open("group=orders")
    site.until_streams(1)
    members = "from sse_app.presence import members\nresult = [m.name for m in members('orders')]"
    eventually(lambda: run(site, members) == ["ann"])
    hears(site, *before, after, first=3)
    assert [tab.heard for tab in before] == [[0, 1, 2, 3, 4, 5]] * 2
    assert after.heard == [3, 4, 5]
    assert not any(state.startswith("closed") for tab in before for state in tab.states)


ENDS = {
    "a logout": "",
    "a new password": "user.set_password('other')\nuser.save()",
    "deactivated": "user.is_active = False\nuser.save()",
    "what only the database knows": "from django.contrib.sessions.models import Session\n"
    "Session.objects.all().delete()\n"
    "User.objects.filter(pk=user.pk).update(password='x')\n"
    "from sse_app.access.revocations import Revocation\nfrom sse_app.access.readers import apply\n"
    "apply(Revocation(review=True))",
}


@pytest.mark.parametrize("how", first_then_slow(ENDS))
def test_of_a_shared_connection_only_the_pages_of_the_lost_groups_are_closed(
    site: Daphne, tabs: Tabs, how: str
) -> None:
    ann = tabs.sign_in("ann")
    private, public = tabs.open(tabs.url_of(f"user.{ann}")), tabs.open("group=orders")
    both = tabs.open(f"group=user.{ann}&group=orders")
    hears(site, public, both, first=0)
    site.until_streams(1)
    if how == "a logout":
        tabs.context.request.get("/test/logout/")
    else:
        find = f"from django.contrib.auth.models import User\nuser = User.objects.get(pk={ann})\n"
        run(site, find + ENDS[how])
    for tab in (private, both):
        tab.until("stream.state === 'closed'")
        assert tab.states[-1] == "closed auth"
    hears(site, public, first=3)
    assert public.heard == [0, 1, 2, 3, 4, 5]
    assert both.heard == [0, 1, 2]


LOCKS = """async () => {
    const {held, pending} = await navigator.locks.query();
    return held.length + pending.length;
}"""


def test_a_refusal_of_streams_that_have_left_does_not_close_the_others(
    site: Daphne, tabs: Tabs
) -> None:
    ann = tabs.sign_in("ann")
    leader, public = tabs.open(f"group=user.{ann}"), tabs.open("group=orders")
    private = tabs.open(f"group=user.{ann}")
    site.until_streams(1)
    asked: list[Route] = []
    tabs.context.route("**/events/?*orders*user*", lambda route: asked.append(route))
    # The next leader asks for the groups of both tabs that are left.
    leader.close()
    public.page.wait_for_function("() => window.asked")
    private.close()
    # Two locks are left, both of the leader: it knows that the other tab has left.
    eventually(lambda: public.page.evaluate(LOCKS) == 2)
    (request,) = asked
    request.fulfill(status=403)
    public.until_open()
    hears(site, public, first=0)
    assert "closed" not in " ".join(public.states)


def test_a_stream_that_the_admin_ends_does_not_come_back(site: Daphne, tabs: Tabs) -> None:
    tabs.sign_in("ann")
    pair = [tabs.open("group=orders"), tabs.open("group=clock")]
    site.until_streams(1)
    run(
        site,
        "from sse_app.operations.reports import streams\n"
        "from sse_app.access.disconnect import end_stream\n"
        "for stream in streams(): end_stream(stream.id)",
    )
    for tab in pair:
        tab.until("stream.state === 'closed'")
        assert tab.states[-1] == "closed auth"
    site.until_streams(0)


# --- pages that come back ---


@pytest.fixture
def caching(browser: Browser, site: Daphne) -> Any:
    """A browser profile with the back/forward cache, which automation switches off."""
    caching = browser.browser_type.launch(
        executable_path=CHROMIUM,
        args=FLAGS,
        ignore_default_args=["--disable-back-forward-cache"],
    )
    yield Tabs(caching.new_context(base_url=site.url))
    caching.close()


@pytest.mark.slow
def test_a_page_of_the_former_user_that_is_restored_is_present_as_the_one_who_is_there(
    site: Daphne, caching: Tabs
) -> None:
    members = "from sse_app.presence import members\nresult = [m.name for m in members('orders')]"
    ann = caching.sign_in("ann")
    public, private = caching.open("group=orders"), caching.open(f"group=user.{ann}")
    eventually(lambda: run(site, members) == ["ann"])
    for tab in (public, private):
        tab.page.evaluate("window.same = true")
        tab.page.goto("/test/whoami/")
    site.until_streams(0)
    caching.sign_in("bob")
    for tab in (public, private):
        tab.page.go_back(wait_until="commit")
        assert tab.page.evaluate("window.same"), "it was loaded again, and not restored"
    private.until("stream.state === 'closed'")
    hears(site, public, first=0)
    assert public.heard == [0, 1, 2]
    eventually(lambda: run(site, members) == ["bob"])


GATE = """
const ask = LockManager.prototype.request;
LockManager.prototype.request = async function (...rest) {
    await window.gate;
    return ask.apply(this, rest);
};
"""
WATCH = """() => {
    window.passed = 0;
    new BroadcastChannel('sse_app 2 /events/').onmessage = ({data}) => {
        if (data.t === 'event') window.passed += 1;
    };
}"""


@pytest.mark.slow
def test_a_restored_page_takes_nothing_before_the_leader_knows_where_it_stands(
    site: Daphne, caching: Tabs
) -> None:
    caching.context.add_init_script(GATE)
    leader, guest = caching.open("group=orders"), caching.open("group=orders")
    hears(site, leader, guest, first=0)
    guest.page.evaluate(
        "() => { window.same = true;"
        " window.gate = new Promise(done => { window.open_gate = done; }); }"
    )
    guest.page.goto("/test/whoami/")
    publish(site, range(3, 6))
    leader.until_heard(6)
    guest.page.go_back(wait_until="commit")
    assert guest.page.evaluate("window.same"), "it was loaded again, and not restored"
    guest.page.evaluate(WATCH)
    publish(site, range(6, 8))
    guest.until("passed >= 2")
    guest.page.evaluate("open_gate()")
    guest.until_heard(8)
    assert guest.heard == leader.heard == list(range(8))
