"""Pages of projects in a real browser: what a script sends up, and what a middleware lets down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from .projects import WITH_FILES, Host
from .test_settings import EVERY

pytestmark = pytest.mark.project

SEND = """async ([event, data, options]) => {
    await customElements.whenDefined("sse-stream");
    const { stream } = document.querySelector("sse-stream");
    try {
        return { answer: await stream.send(event, data, options) };
    } catch (error) {
        return { status: error.status, text: error.message };
    }
}"""
TICKS = """async () => {
    const ticks = [];
    const source = new EventSource("/clock/");
    source.addEventListener("tick", (event) => ticks.push(event.data));
    await new Promise((done) => source.addEventListener("sse.close", done));
    source.close();
    return ticks;
}"""
CSRF: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "other names": {"CSRF_COOKIE_NAME": "XSRF.TOKEN", "CSRF_HEADER_NAME": "HTTP_X_XSRF_TOKEN"},
    "in the session": {"CSRF_USE_SESSIONS": True},
    "no script reads the cookie": {"CSRF_COOKIE_HTTPONLY": True},
}
ANONYMOUS = 'SSE_APP |= {"MAY_SPEAK": "tests.hosts.shop.views.may_speak"}\n'


def open_page(browser: Browser, host: Host, path: str = "/page/", *, enter: bool = True) -> Page:
    context = browser.new_context(base_url=host.url)
    page = context.new_page()
    if enter:
        context.request.post("/enter/", form={"name": "ann"})
    page.goto(path)
    return page


@pytest.mark.parametrize("name", CSRF)
def test_a_page_without_a_form_sends_a_message(
    browser: Browser, make_host: Callable[..., Host], name: str
) -> None:
    host = make_host(files=WITH_FILES, lines=ANONYMOUS, **CSRF[name])
    for enter in (True, False):
        page = open_page(browser, host, enter=enter)
        sent = page.evaluate(SEND, ["echo", 5, {}])
        assert sent.get("answer", sent) == {"user": "ann" if enter else "", "data": 5}
        page.context.close()


def test_a_page_without_a_token_is_told_what_to_do(
    browser: Browser, make_host: Callable[..., Host]
) -> None:
    page = open_page(browser, make_host(files=WITH_FILES), enter=False)
    sent = page.evaluate(SEND, ["echo", 5, {}])
    assert sent["status"] == 403
    assert sent["text"].startswith("CSRF cookie not set. The page's token is missing or old.")
    page.context.close()


def test_each_middleware_of_django_lets_every_event_through(
    browser: Browser, make_host: Callable[..., Host]
) -> None:
    page = open_page(browser, make_host(files=WITH_FILES, lines=EVERY))
    assert page.evaluate(TICKS) == ['{"number":0}', '{"number":1}', '{"number":2}']
    page.goto("/admin/sse_app/serverprocess/")
    expect(page.get_by_test_id("feed")).to_have_attribute("data-state", "live")
    expect(page.locator("[data-figure=open]")).to_be_visible()
    expect(page.locator("[data-list=processes] tr").first).to_be_visible()
    page.context.close()


def test_the_dashboard_is_not_live_without_figures(
    browser: Browser, make_host: Callable[..., Host]
) -> None:
    """A proxy that holds a body back may let its first event through."""
    page = open_page(browser, make_host(files=WITH_FILES))

    def first_only(route: Any) -> None:
        block = "event: chart\ndata: []\n\n"
        route.fulfill(status=200, content_type="text/event-stream", body=block)

    page.route("**/serverprocess/feed/**", first_only)
    page.add_init_script(
        """
        window.states = [];
        new MutationObserver(() => {
            const feed = document.querySelector("[data-testid=feed]");
            if (feed) states.push(feed.dataset.state);
        }).observe(document, { subtree: true, childList: true, attributes: true });
        """
    )
    page.goto("/admin/sse_app/serverprocess/")
    expect(page.get_by_test_id("feed")).to_have_attribute("data-state", "reconnecting")
    page.locator("[data-do=pause]").click()
    page.locator("[data-do=pause]").click()
    assert "live" not in page.evaluate("states")
    page.context.close()
