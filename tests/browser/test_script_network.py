"""The page's script when the network, the server or the page itself goes away and comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from ..support.cables import Cable
from ..support.chromium import CHROMIUM, FLAGS
from ..support.servers import Daphne
from ..support.sleepers import run
from ..support.tabs import Tabs, open_tabs, publish

pytestmark = pytest.mark.slow

__all__ = ["open_tabs"]

QUICK: dict[str, Any] = {"RETRY": [0.2, 0.3], "HEARTBEAT": 0.5}
#: For how long a page stays offline, at least. The documentation's figure is that of 30.
OFFLINE_SECONDS = float(os.environ.get("OFFLINE_SECONDS", "1"))


@pytest.fixture
def site(make_daphne: Callable[..., Daphne]) -> Daphne:
    return make_daphne(**QUICK)


@pytest.fixture
def tabs(site: Daphne, open_tabs: Callable[[str], Tabs]) -> Tabs:
    return open_tabs(site.url)


@pytest.fixture
def cable(site: Daphne) -> Iterator[Cable]:
    cable = Cable(site.port)
    yield cable
    cable.close()


def test_offline_while_200_events_pass_nothing_is_lost_or_repeated(
    site: Daphne, cable: Cable, open_tabs: Callable[[str], Tabs]
) -> None:
    tabs = open_tabs(cable.url)
    pair = [tabs.open("group=orders") for _ in range(2)]
    publish(site, range(5))
    for tab in pair:
        tab.until_heard(5)
    cable.cut()
    tabs.context.set_offline(True)
    for tab in pair:
        tab.until("stream.state === 'offline'")
    publish(site, range(5, 205))
    pair[0].page.wait_for_timeout(OFFLINE_SECONDS * 1000)
    assert pair[0].heard == list(range(5))
    cable.mend()
    tabs.context.set_offline(False)
    publish(site, range(205, 210))
    for tab in pair:
        tab.until_heard(210)
        assert tab.heard == list(range(210))
        assert tab.resets == []
        tab.until_open()
    site.until_streams(1)


def test_the_browsers_word_for_the_network_counts_at_once(
    make_daphne: Callable[..., Daphne], open_tabs: Callable[[str], Tabs]
) -> None:
    site = make_daphne(RETRY=[60, 60])  # With the usual heartbeat, too.
    tabs = open_tabs(site.url)
    pair = [tabs.open("group=orders") for _ in range(2)]
    tabs.context.set_offline(True)
    for tab in pair:
        tab.until("stream.state === 'offline'")
    tabs.context.set_offline(False)
    for tab in pair:
        tab.until_open()


def test_a_network_that_dies_without_a_word_is_noticed(
    site: Daphne, cable: Cable, open_tabs: Callable[[str], Tabs]
) -> None:
    tab = open_tabs(cable.url).open("group=orders")
    publish(site, range(2))
    tab.until_heard(2)
    cable.cut()
    tab.until("states.at(-1).join() === 'reconnecting,silent'")
    publish(site, range(2, 4))
    cable.mend()
    tab.until_heard(4)
    assert tab.heard == [0, 1, 2, 3]


def test_a_server_that_falls_silent_is_noticed(site: Daphne, tabs: Tabs) -> None:
    tab = tabs.open("group=orders")
    publish(site, range(2))
    tab.until_heard(2)
    assert site.process is not None
    site.process.send_signal(signal.SIGSTOP)
    try:
        tab.until("states.at(-1).join() === 'reconnecting,silent'")
    finally:
        site.process.send_signal(signal.SIGCONT)
    tab.until_open()
    publish(site, range(2, 4))
    tab.until_heard(4)
    assert tab.heard == [0, 1, 2, 3]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_is_replaced_costs_nothing(
    site: Daphne, tabs: Tabs, how: signal.Signals
) -> None:
    pair = [tabs.open("group=orders"), tabs.open("group=orders&group=clock")]
    publish(site, range(3))
    site.stop(how)
    site.shell("from sse_app import publish\nfor n in range(3, 6): publish('orders', 'n', n)")
    for tab in pair:
        tab.until("stream.state === 'reconnecting'")
    site.start()
    publish(site, range(6, 8))
    for tab in pair:
        tab.until_heard(8)
        assert tab.heard == list(range(8))
        assert tab.resets == []


def test_answers_that_are_no_stream_are_tried_again(site: Daphne, tabs: Tabs) -> None:
    answers = [(503, "text/html"), (429, "text/html"), (200, "text/html"), (502, "text/html")]

    def answer(route: Any) -> None:
        if not answers:
            route.continue_()
            return
        status, kind = answers.pop(0)
        route.fulfill(status=status, content_type=kind, body="<p>Back soon.")

    tabs.context.route("**/events/?*", answer)
    tab = tabs.open("group=orders")
    expected = [f"reconnecting HTTP {status}" for status in (503, 429, 200, 502)]
    assert tab.states == [*expected, "open"]


def test_retry_after_is_kept(tabs: Tabs) -> None:
    tabs.context.route(
        "**/events/?*",
        lambda route: route.fulfill(status=503, headers={"Retry-After": "4294968"}),
    )
    tab = tabs.begin("group=orders")
    tab.until("stream.state === 'reconnecting'")
    # As long as that, a timer would fire at once; and without it there would be another soon.
    tab.page.wait_for_timeout(2500)
    assert tab.connections == 1


def test_a_busy_server_is_asked_again_when_it_says_so(
    make_daphne: Callable[..., Daphne], open_tabs: Callable[[str], Tabs]
) -> None:
    site = make_daphne(**QUICK, STREAMS_PER_PROCESS=1)
    open_tabs(site.url).open("group=orders")
    refused = open_tabs(site.url).begin("group=orders")
    refused.until("stream.state === 'reconnecting'")
    assert refused.states == ["reconnecting busy: process"]
    refused.page.wait_for_timeout(2500)
    assert refused.connections == 1


def test_a_logout_closes_the_streams_of_all_tabs(
    make_daphne: Callable[..., Daphne], open_tabs: Callable[[str], Tabs]
) -> None:
    # With heartbeats as they are by default: a busy machine must not look like a dead network.
    site = make_daphne()
    tabs = open_tabs(site.url)
    tabs.sign_in("ann")
    pair = [tabs.open(tabs.url_of("team.red")) for _ in range(2)]
    tabs.context.request.get("/test/logout/")
    for tab in pair:
        tab.until("stream.state === 'closed'")
        assert tab.states[-1] == "closed auth"
    site.until_streams(0)


def test_a_stream_that_has_lived_its_life_goes_on_unseen(
    make_daphne: Callable[..., Daphne], open_tabs: Callable[[str], Tabs]
) -> None:
    site = make_daphne(**QUICK, PUBLIC_STREAM_LIFE=1.0)
    tab = open_tabs(site.url).open("group=orders")
    for n in range(30):
        publish(site, range(n, n + 1))
        tab.page.wait_for_timeout(100)
    tab.until_heard(30)
    assert tab.heard == list(range(30))
    assert "reconnecting age" in tab.states


def test_a_lost_history_calls_the_function_and_events_wait_for_it(site: Daphne, tabs: Tabs) -> None:
    tab = tabs.open("group=orders")
    publish(site, range(2))
    tab.until_heard(2)
    tab.page.evaluate(
        """() => {
            window.attempts = 0;
            stream.on('sse.reset', () => new Promise((done, fail) => {
                window.attempts += 1;
                if (attempts === 1) fail(new Error('on purpose'));
                else window.finish = done;
            }));
        }"""
    )
    run(site, "from django.core.management import call_command\ncall_command('sse_new_epoch')")
    tab.until("window.finish")
    assert tab.resets == [{"group": "orders", "reason": "epoch"}] * 2
    publish(site, range(2, 4))
    tab.page.wait_for_timeout(500)
    assert tab.heard == [0, 1], "they wait"
    tab.page.evaluate("finish()")
    tab.until_heard(4)
    assert tab.heard == [0, 1, 2, 3]


def test_of_several_lost_groups_each_is_loaded_again(site: Daphne, tabs: Tabs) -> None:
    tab = tabs.open("group=orders&group=clock")
    for group in ("orders", "clock"):
        publish(site, range(1), group)
    tab.until_heard(2)
    tab.page.evaluate("stream.on('sse.reset', () => new Promise(done => setTimeout(done, 200)))")
    run(site, "from django.core.management import call_command\ncall_command('sse_new_epoch')")
    tab.until("resets.length === 2")
    assert {reset["group"] for reset in tab.resets} == {"orders", "clock"}


@pytest.mark.parametrize("place", ["zzzzzzzz-1", "0-1"], ids=["another log", "long ago"])
def test_a_tab_that_cannot_go_on_is_reset_and_the_others_go_on(
    site: Daphne, tabs: Tabs, place: str
) -> None:
    current = tabs.open("group=orders")
    publish(site, range(2))
    current.until_heard(2)
    position = current.page.evaluate("stream.cursor")
    stale = tabs.open(f"group=orders&last_event_id={position.split('-')[0]}-{place}")
    stale.until("resets.length === 1")
    publish(site, range(2, 4))
    stale.until_heard(2)
    current.until_heard(4)
    assert stale.heard == [2, 3]
    assert current.heard == [0, 1, 2, 3]
    assert current.resets == []


def test_a_page_restored_from_the_back_forward_cache_goes_on_where_it_was(
    browser: Browser, site: Daphne
) -> None:
    caching = browser.browser_type.launch(
        executable_path=CHROMIUM,
        args=FLAGS,
        ignore_default_args=["--disable-back-forward-cache"],
    )
    tabs = Tabs(caching.new_context(base_url=site.url))
    tab = tabs.open("group=orders")
    publish(site, range(2))
    tab.until_heard(2)
    tab.page.goto("/test/whoami/")
    site.until_streams(0)
    publish(site, range(2, 5))
    tab.page.go_back(wait_until="commit")  # Nothing is loaded.
    tab.until_heard(5)
    assert tab.heard == [0, 1, 2, 3, 4], "or it was loaded anew, and not restored"
    publish(site, range(5, 7))
    tab.until_heard(7)
    assert tab.heard == list(range(7))
    caching.close()
