"""The page's script where a browser refuses, a proxy buffers, or a function hangs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import expect

from ..support.pages import RESET
from ..support.patience import PATIENCE
from ..support.proxies import BufferingNginx
from ..support.servers import Daphne
from ..support.sleepers import run
from ..support.tabs import Tabs, open_tabs, publish

__all__ = ["open_tabs"]


@pytest.fixture
def site(make_daphne: Callable[..., Daphne]) -> Daphne:
    return make_daphne(RETRY=[0.2, 0.3])


@pytest.fixture
def tabs(site: Daphne, open_tabs: Callable[..., Tabs]) -> Tabs:
    return open_tabs(site.url)


#: A page whose server the test plays: `feed(text)` is what the stream's body has next.
PLAYED = """async () => {
    const {connect} = await customElements.whenDefined('sse-stream');
    const encoder = new TextEncoder();
    const real = window.fetch;
    window.pages = 0;
    window.fetch = async (url, ...rest) => {
        if (String(url) === location.href) window.pages++;
        if (!String(url).includes('/played/')) return real(url, ...rest);
        const body = new ReadableStream({start: (controller) => {
            window.feed = (...lines) =>
                controller.enqueue(encoder.encode(lines.join('\\n') + '\\n\\n'));
        }});
        return new Response(body, {headers: {'Content-Type': 'text/event-stream'}});
    };
    window.heard = [];
    window.stream = connect('/played/?group=a&group=b', {share: false, fragment: 'body'});
    stream.on('n', (data, {id, group}) => heard.push([data, group]));
    await new Promise((done) => setInterval(() => window.feed && done()));
    const event = (data, group, id, ...more) =>
        feed('event: n', `data: ${data}`, `group: ${group}`, `id: ${id}`, ...more);
    const reset = (group) => feed('event: sse.reset', `data: {"group": "${group}"}`);
    const turn = () => new Promise((done) => setTimeout(done, 20));
    Object.assign(window, {event, reset, turn});
    feed('event: sse.open', 'data: {"max_groups": 20, "groups": ["a", "b"]}');
    await turn();
}"""


@pytest.fixture
def played(tabs: Tabs) -> Any:
    page = tabs.context.new_page()
    page.goto("/test/page/?tag=" + quote("{% sse_script %}"))
    page.evaluate(PLAYED)
    return page


def test_resets_and_own_events_are_taken_as_the_server_means_them(played: Any) -> None:
    """In one page, as each case is a few lines."""
    own = played.evaluate(
        """async () => {
            event(1, 'a', 'x1', `except: other ${stream.id}`);
            event(2, 'a', 'x2', 'except: other');
            await turn();
            return [heard.splice(0), stream.cursor];
        }"""
    )
    assert own == [[[2, "a"]], "x2"], "an own event is not shown, another's is"
    waited = played.evaluate(
        """async () => {
            const free = [];
            const fn = () => new Promise((done) => free.push(done));
            stream.on('sse.reset', fn);
            reset('a');
            event(3, 'a', 'x3');
            event(4, 'b', 'x4');
            reset('a');
            event(5, 'a', 'x5');
            await turn();
            free.shift()();
            await turn();
            free.shift()();
            await turn();
            stream.off('sse.reset', fn);
            return heard.splice(0);
        }"""
    )
    assert waited == [[4, "b"], [5, "a"]], "the state of the second reset is newer than event 3"
    left = played.evaluate(
        """async () => {
            const fn = () => false, other = () => {};
            stream.on('sse.reset', fn).on('sse.reset', other);
            reset('a');
            await turn();
            const before = pages;
            stream.off('sse.reset', other);
            reset('a');
            while (pages === before) await turn();
            stream.off('sse.reset', fn);
            return [before, pages];
        }"""
    )
    assert left == [0, 1], "the fragment is loaded only if all functions leave it to the script"
    hung = played.evaluate(
        """async () => {
            const later = window.setTimeout;
            window.setTimeout = (call, ms, ...rest) => later(call, ms === 60000 ? 0 : ms, ...rest);
            stream.on('sse.reset', () => new Promise(() => {}));
            reset('a');
            event(6, 'a', 'x6');
            while (!heard.length) await turn();
            return heard;
        }"""
    )
    assert hung == [[6, "a"]], "a function that never ends does not hold events for ever"


@pytest.mark.slow
def test_tabs_share_although_the_browser_does_not_list_locks(site: Daphne, tabs: Tabs) -> None:
    tabs.context.add_init_script(
        "LockManager.prototype.query = async () => { throw new DOMException('', 'SecurityError') }"
    )
    pair = [tabs.open("group=orders") for _ in range(2)]
    publish(site, range(2))
    for tab in pair:
        tab.until_heard(2)
    site.until_streams(1)


@pytest.mark.slow
def test_after_the_end_of_a_session_the_present_one_is_tried_once(
    site: Daphne, tabs: Tabs, open_tabs: Callable[[str], Tabs]
) -> None:
    """As after a login that made another session of the same user."""
    tabs.sign_in("ann")
    tab = tabs.open(tabs.url_of("team.red"))
    for n in (0, 1):
        site.until_streams(1)
        publish(site, range(n, n + 1), "team.red")
        tab.until_heard(n + 1)
        if n == 0:
            (former,) = (c for c in tabs.context.cookies() if c["name"] == "sessionid")
            other = open_tabs(site.url)
            other.sign_in("ann")
            tabs.context.add_cookies(
                [c for c in other.context.cookies() if c["name"] == "sessionid"]  # type: ignore[misc]
            )
            cookies = {"sessionid": str(former["value"])}
            httpx.get(f"{site.url}/test/logout/", cookies=cookies, timeout=PATIENCE)
            tab.until("states.length > 1")
            tab.until_open()
    assert tab.heard == [0, 1]
    tabs.context.request.get("/test/logout/")
    tab.until("stream.state === 'closed'")
    assert tab.states[-1] == "closed auth"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "same"),
    [
        ("require-trusted-types-for 'script'", True),
        ("require-trusted-types-for 'script'; trusted-types sse_app", True),
        ("require-trusted-types-for 'script'; trusted-types 'none'", False),
    ],
)
def test_trusted_types_permit_our_policy_or_the_page_is_loaded_again(
    site: Daphne, tabs: Tabs, policy: str, same: bool
) -> None:
    def with_policy(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(
            response=answer, headers={**answer.headers, "content-security-policy": policy}
        )

    tabs.context.route("**/test/page/**", with_policy)
    # Else a young page waits before it is loaded again.
    tabs.context.add_init_script("performance.now = () => 20000")
    tag = (
        '{% sse_script %}<sse-stream url="/events/?group=orders" fragment="p"></sse-stream>'
        "<p>{% now 'U.u' %}</p>"
    )
    page = tabs.context.new_page()
    page.goto(f"/test/page/?tag={quote(tag)}")
    expect(page.locator("sse-stream")).to_have_attribute("state", "open")
    publish(site, range(1))
    before = page.locator("p").inner_text()
    page.evaluate("window.same = true")
    run(site, RESET)
    expect(page.locator("p")).not_to_have_text(before)
    assert page.evaluate("window.same ?? false") is same


# --- proxies that hold a response back until its end ---


@pytest.mark.proxy
def test_behind_a_proxy_that_buffers_events_come_by_short_responses(
    tmp_path: Path, make_daphne: Callable[..., Daphne], open_tabs: Callable[..., Tabs]
) -> None:
    site = make_daphne(RETRY=[0.2, 0.3], HEARTBEAT=1)
    proxy = BufferingNginx(tmp_path, site).start()
    try:
        tabs = open_tabs(proxy.url)
        tabs.context.add_init_script(
            # The first attempts know no heartbeat of the server, and would take 75 s in all.
            "const later = window.setTimeout; window.setTimeout = (call, ms, ...rest) =>"
            " later(call, ms === 37500 ? 2500 : ms, ...rest);"
        )
        tab = tabs.begin("group=orders")
        tab.until("stream.state === 'open' && stream.reason === 'buffered'")
        for n in range(5):
            publish(site, range(n, n + 1))
            tab.until_heard(n + 1)
        assert tab.heard == [0, 1, 2, 3, 4]
        assert tab.resets == []
        opened = tab.states.index("open buffered")
        assert tab.states[opened:] == ["open buffered"], "the responses' ends are not shown"
        tab.page.evaluate("dispatchEvent(new Event('online'))")
        tab.until("states.length > 3")
    finally:
        proxy.stop()
