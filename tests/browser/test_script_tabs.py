"""Tabs share one connection, each hears its own, and who comes or goes costs nobody an event."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from playwright.sync_api import Error

from ..support.servers import Daphne, eventually
from ..support.sleepers import run
from ..support.tabs import Tab, Tabs, open_tabs, publish

__all__ = ["open_tabs"]

QUICK: dict[str, Any] = {"RETRY": [0.2, 0.3], "HEARTBEAT": 0.5}


@pytest.fixture
def site(make_daphne: Callable[..., Daphne]) -> Daphne:
    return make_daphne(**QUICK)


@pytest.fixture
def tabs(site: Daphne, open_tabs: Callable[[str], Tabs]) -> Tabs:
    return open_tabs(site.url)


def test_ten_tabs_are_one_connection_and_all_live_on_when_the_leader_closes(
    site: Daphne, tabs: Tabs
) -> None:
    ten = [tabs.open("group=orders") for _ in range(10)]
    site.until_streams(1)
    publish(site, range(5))
    for tab in ten:
        tab.until_heard(5)
    for _ in range(3):
        (leader,) = [tab for tab in ten if tab.connections]
        ten.remove(leader)
        leader.close()
        before = len(ten[0].heard)
        publish(site, range(before, before + 1))
        for tab in ten:
            tab.until_heard(before + 1)
            tab.until_open()
        site.until_streams(1)
    for tab in ten:
        assert tab.heard == list(range(8))


def test_tabs_of_different_groups_share_it_and_each_hears_only_its_own(
    site: Daphne, tabs: Tabs
) -> None:
    orders, clock = tabs.open("group=orders"), tabs.open("group=clock")
    both = tabs.open("group=orders&group=clock")
    site.until_streams(1)
    publish(site, range(3), "orders")
    publish(site, range(10, 13), "clock")
    # Without an id, so that nothing but its label says whose it is.
    site.publish("clock", "n", "99", "publish-passing")
    both.until_heard(7)
    clock.until_heard(4)
    assert orders.heard == [0, 1, 2]
    assert clock.heard == [10, 11, 12, 99]
    assert sorted(both.heard) == [0, 1, 2, 10, 11, 12, 99]
    # Nobody who was there saw that others came.
    assert (orders.states, clock.states) == (["open"], ["open"])


@pytest.mark.slow
def test_of_the_tabs_that_share_a_stream_only_the_one_that_spoke_hears(
    site: Daphne, tabs: Tabs
) -> None:
    tabs.sign_in("ann")
    tabs.context.request.get("/login/")
    speaks, listens = (tabs.open("group=chat.lobby") for _ in range(2))
    site.until_streams(1)
    for tab in (speaks, listens):
        tab.page.evaluate(
            "() => { window.notes = [];"
            "window.stream.on('chat.note', ({text}) => window.notes.push(text)); }"
        )
    say(listens.page, "/help")
    say(speaks.page, "/who")
    say(speaks.page, "/help")
    speaks.until("() => window.notes.length === 2")
    listens.until("() => window.notes.length === 1")
    assert speaks.page.evaluate("() => window.notes")[0].startswith("Here: ")


def say(page: Any, text: str) -> None:
    page.evaluate("text => window.stream.send('chat.message', {text})", text)


@pytest.mark.slow
def test_who_comes_and_goes_costs_the_others_nothing(site: Daphne, tabs: Tabs) -> None:
    stays = tabs.open("group=orders")
    done = threading.Event()
    count = 0

    def publishing() -> None:
        nonlocal count
        while not done.is_set():
            site.publish("orders", "n", str(count))
            count += 1

    thread = threading.Thread(target=publishing)
    thread.start()
    for n in range(6):
        guest = tabs.open(f"group=chat.{n}&group=orders")
        guest.until_heard(1)
        last = guest.heard
        assert last == list(range(last[0], last[0] + len(last)))
        if n % 2:
            guest.close()
    done.set()
    thread.join()
    stays.until_heard(count)
    assert stays.heard == list(range(count))
    assert stays.resets == []


GROUPS = (
    "from sse_app.operations.reports import streams\nresult = [sorted(s.groups) for s in streams()]"
)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["closed", "crashed"])
def test_what_nobody_wants_any_more_is_given_back(site: Daphne, tabs: Tabs, how: str) -> None:
    stays, goes = tabs.open("group=orders"), tabs.open("group=chat.a")
    eventually(lambda: run(site, GROUPS) == [["chat.a", "orders"]])
    if how == "closed":
        goes.close()
    else:
        with suppress(Error), goes.page.expect_event("crash"):
            goes.page.goto("chrome://crash", timeout=2000)
    eventually(lambda: run(site, GROUPS) == [["orders"]])
    publish(site, range(2))
    stays.until_heard(2)
    assert (stays.heard, stays.states) == ([0, 1], ["open"])


@pytest.mark.slow
def test_a_tab_that_was_rendered_earlier_gets_what_came_since_and_the_others_no_repeat(
    site: Daphne, tabs: Tabs
) -> None:
    first = tabs.open("group=orders")
    publish(site, range(2))
    first.until_heard(2)
    position = first.page.evaluate("stream.cursor")
    publish(site, range(2, 6))
    first.until_heard(6)
    second = tabs.open(f"group=orders&last_event_id={position}")
    second.until_heard(4)
    publish(site, range(6, 8))
    first.until_heard(8)
    second.until_heard(6)
    assert first.heard == list(range(8))
    assert second.heard == list(range(2, 8))
    assert first.resets == second.resets == []
    site.until_streams(1)


@pytest.mark.slow
def test_a_tab_gets_the_state_of_the_groups_that_the_connection_is_opened_for(
    site: Daphne, tabs: Tabs
) -> None:
    run(site, "import tests.support.states\nresult = None")
    a, b = "orders.now.a", "orders.now.b"
    for group in (a, b):
        publish(site, range(1), group)
    first, second = tabs.open(f"group={a}"), tabs.open(f"group={a}&group={b}")
    second.until("snapshots.length")
    assert [state["group"] for state in second.snapshots] == [b]
    # The connection goes on for its group: it knows the state.
    third = tabs.open(f"group={a}")
    site.manage("sse_new_epoch", b)
    second.until("snapshots.length === 2")
    publish(site, range(1, 2), a)
    for tab in (first, second, third):
        tab.until_heard(1)
        assert tab.heard == [1]
    assert [state["group"] for state in first.snapshots] == [a]
    assert (first.resets, first.states, third.snapshots) == ([], ["open"], [])
    assert second.resets == [{"group": b, "reason": "epoch"}]
    assert [state["data"]["call"] for state in second.snapshots] == [1, 2]
    site.until_streams(1)


@pytest.mark.slow
def test_beyond_max_groups_a_tab_has_a_connection_of_its_own(
    make_daphne: Callable[..., Daphne], open_tabs: Callable[[str], Tabs]
) -> None:
    site = make_daphne(**QUICK, MAX_GROUPS=2)
    tabs = open_tabs(site.url)
    one = tabs.open("group=chat.a")
    two = tabs.open("group=chat.a&group=chat.b")
    site.until_streams(1)
    over = tabs.open("group=chat.b&group=chat.c")
    site.until_streams(2)
    for group, numbers in (("chat.a", range(2)), ("chat.b", range(2, 4)), ("chat.c", range(4, 6))):
        publish(site, numbers, group)
    for tab, expected in ((one, [0, 1]), (two, [0, 1, 2, 3]), (over, [2, 3, 4, 5])):
        tab.until_heard(len(expected))
        assert tab.heard == expected


def test_who_may_not_listen_is_refused_alone(site: Daphne, tabs: Tabs) -> None:
    allowed = tabs.open("group=orders")
    refused = tabs.begin("group=secret")
    refused.until("stream.state === 'closed'")
    assert refused.states[-1] == "closed refused: HTTP 403"
    publish(site, range(2))
    allowed.until_heard(2)
    assert allowed.states == ["open"]
    site.until_streams(1)


@pytest.mark.slow
def test_what_tabs_were_granted_is_joined_and_renewed(
    make_daphne: Callable[..., Daphne], open_tabs: Callable[[str], Tabs]
) -> None:
    site = make_daphne(**QUICK, MAY_LISTEN="tests.policies.by_permission", GRANT_AGE=3)
    tabs = open_tabs(site.url)
    key = tabs.sign_in("ann")
    run(
        site,
        "from django.contrib.auth.models import Group, User\n"
        f"User.objects.get(pk={key}).groups.set("
        "[Group.objects.get_or_create(name=name)[0] for name in ('red', 'blue')])",
    )
    red, blue = tabs.open(tabs.url_of("team.red")), tabs.open(tabs.url_of("team.blue", "orders"))
    site.until_streams(1)
    for n in range(12):  # For longer than two grants last.
        publish(site, range(n, n + 1), "team.red")
        publish(site, range(n, n + 1), "team.blue")
        red.until_heard(n + 1)
        blue.until_heard(n + 1)
        red.page.wait_for_timeout(600)
    for tab in (red, blue):
        assert tab.heard == list(range(12))
        assert tab.resets == []
        assert any("expired" in state for state in tab.states)
        tab.until_open()


@pytest.mark.slow
def test_a_grant_that_is_not_renewed_closes_its_tab_only(
    make_daphne: Callable[..., Daphne], open_tabs: Callable[[str], Tabs]
) -> None:
    site = make_daphne(**QUICK, GRANT_AGE=2)
    tabs = open_tabs(site.url)
    public, granted = tabs.open("group=orders"), tabs.open(tabs.url_of("team.red"))
    granted.until("stream.state === 'closed'")
    assert granted.states[-1] == "closed expired"
    publish(site, range(2))
    public.until_heard(2)
    assert public.heard == [0, 1]


#: Requests that a page waits for, and nothing else of it runs.
HANG = """setTimeout(() => {
    const asked = new XMLHttpRequest();
    const body = new FormData();
    body.append('code',
        "import sys, time\\ntime.sleep(0.05)\\nresult = getattr(sys, 'may_go_on', False)");
    do {
        asked.open('POST', '/test/run/', false);
        asked.send(body);
    } while (!JSON.parse(asked.responseText).result);
})"""


@pytest.mark.slow
def test_a_leader_that_hangs_is_replaced_and_loses_nothing_itself(site: Daphne, tabs: Tabs) -> None:
    leader, follower = tabs.open("group=orders"), tabs.open("group=orders")
    assert (leader.connections, follower.connections) == (1, 0)
    publish(site, range(2))
    leader.page.evaluate(HANG)
    publish(site, range(2, 5))
    follower.until_heard(5)
    run(site, "import sys\nsys.may_go_on = True")
    leader.until_heard(5)
    publish(site, range(5, 7))
    for tab in (leader, follower):
        tab.until_heard(7)
        assert tab.heard == list(range(7))
    assert follower.connections == 1
    site.until_streams(1)


HOSTILE = """() => {
    const channel = new BroadcastChannel('sse_app 2 /events/');
    const place = new Map([['aaaaaaaa', 'x-5']]);
    for (const message of [
        null, 1, 'text', [], {}, {t: 'join'}, {t: 'join', from: 'x', streams: 1},
        {t: 'join', from: 'x', streams: [null]}, {t: 'leave'}, {t: 'ask'}, {t: 'state'},
        {t: 'event', from: 'x', name: 'n', data: '666', group: 'orders'},
        {t: 'open', from: 'x', ids: 1}, {t: 'open', from: 'x', at: place, names: place},
        {t: 'grant', from: 'x', old: {}, grant: {}}, {t: 'go', from: 'x', ids: {}},
    ]) channel.postMessage(message?.t ? {...message, user: ''} : message);
}"""


@pytest.mark.slow
def test_messages_of_another_script_on_the_channel_do_no_harm(site: Daphne, tabs: Tabs) -> None:
    leader, follower = tabs.open("group=orders"), tabs.open("group=orders")
    for tab in (leader, follower):
        tab.page.evaluate(HOSTILE)
    publish(site, range(3))
    for tab in (leader, follower):
        tab.until_heard(3)
        assert tab.heard == [0, 1, 2]


@pytest.mark.slow
def test_who_only_says_that_it_leads_is_found_out(site: Daphne, tabs: Tabs) -> None:
    leader, follower = tabs.open("group=orders"), tabs.open("group=orders")
    pretend = (
        "new BroadcastChannel('sse_app 2 /events/').postMessage({t: 'lead', from: 'x', user: ''})"
    )
    follower.page.evaluate(pretend)  # A page's own channels hear each other, too.
    publish(site, range(3))
    for tab in (leader, follower):
        tab.until_heard(3)
        assert tab.heard == [0, 1, 2]
    site.until_streams(1)


NO_LOCKS = "Object.defineProperty(navigator, 'locks', {value: undefined})"
DENIED = (
    "LockManager.prototype.request = async () => { throw new DOMException('', 'SecurityError') }"
)
NO_CHANNEL = "window.BroadcastChannel = class { constructor() { throw new Error('denied') } }"


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [NO_LOCKS, DENIED, NO_CHANNEL],
    ids=["on plain HTTP", "without storage", "without channels"],
)
def test_where_tabs_cannot_share_each_has_its_own(site: Daphne, tabs: Tabs, how: str) -> None:
    tabs.context.add_init_script(how)
    pair = [tabs.open("group=orders") for _ in range(2)]
    site.until_streams(2)
    publish(site, range(2))
    for tab in pair:
        tab.until_heard(2)
        assert tab.heard == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("query", ["group=orders&event=n", "group=orders&from=earliest"])
def test_a_filtered_stream_and_one_from_the_past_are_not_shared(
    site: Daphne, tabs: Tabs, query: str
) -> None:
    publish(site, range(2))
    tabs.open("group=orders")
    own = tabs.open(query)
    site.until_streams(2)
    publish(site, range(2, 4))
    expected = [0, 1, 2, 3] if "earliest" in query else [2, 3]
    own.until_heard(len(expected))
    site.stop()
    site.start()
    publish(site, range(4, 6))
    own.until_heard(len(expected) + 2)
    assert own.heard == [*expected, 4, 5]


def test_a_stream_that_is_closed_leaves_the_rest_of_its_page(site: Daphne, tabs: Tabs) -> None:
    tab: Tab = tabs.open("group=orders")
    tab.page.evaluate(
        """async () => {
            const {connect} = await customElements.whenDefined('sse-stream');
            window.other = connect('/events/?group=orders&group=clock');
            await new Promise(done => other.on('sse.open', done));
            other.close();
        }"""
    )
    publish(site, range(2))
    tab.until_heard(2)
    assert tab.heard == [0, 1]
    tab.page.evaluate("stream.close()")
    site.until_streams(0)


@pytest.mark.slow
def test_the_cursor_of_a_view_is_where_the_page_begins(site: Daphne, tabs: Tabs) -> None:
    position = run(site, "from sse_app import cursor\nresult = cursor('orders')")
    publish(site, range(3))
    tab = tabs.open(f"group=orders&last_event_id={position}")
    tab.until_heard(3)
    assert tab.heard == [0, 1, 2]


@pytest.mark.slow
def test_a_server_that_knows_of_no_labels_gives_each_tab_its_own(site: Daphne, tabs: Tabs) -> None:
    """As while a deploy is under way: the page is newer than the server."""

    def older(route: Any) -> None:
        route.continue_(url=route.request.url.replace("&label=1", ""))

    tabs.context.route("**/events/?*", older)
    orders, clock = tabs.open("group=orders"), tabs.open("group=clock")
    site.until_streams(2)
    publish(site, range(2), "orders")
    publish(site, range(2, 4), "clock")
    for tab, expected in ((orders, [0, 1]), (clock, [2, 3])):
        tab.until_heard(2)
        assert tab.heard == expected
