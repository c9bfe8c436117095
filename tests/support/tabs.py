"""`Tab`: a page in a real Chromium that listens with the page's script and keeps what it heard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from .servers import Daphne

__all__ = ["Tab", "Tabs", "open_tabs"]

PAGE = "/test/page/?tag=" + quote("{% sse_script %}{% csrf_token %}")
COUNT = """
const fetched = window.fetch;
window.fetch = (url, ...rest) => {
    if (rest[0]?.headers?.Accept === 'text/event-stream') window.asked = (window.asked ?? 0) + 1;
    return fetched(url, ...rest);
};
"""
LISTEN = """async ([url, options]) => {
    const {connect} = await customElements.whenDefined('sse-stream');
    window.heard = [];
    window.resets = [];
    window.states = [];
    window.snapshots = [];
    const reset = data => { window.resets.push(data); };
    window.stream = connect(url, {reset, ...options});
    stream.on('n', data => window.heard.push(data));
    stream.on('sse.snapshot', data => window.snapshots.push(data));
    stream.on('state', (state, {reason}) => window.states.push([state, reason]));
}"""


class Tab:
    """One page with one stream."""

    def __init__(self, page: Page, url: str, options: dict[str, Any], path: str = PAGE) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(path)
        page.evaluate(LISTEN, [url, options])

    @property
    def heard(self) -> list[Any]:
        return list(self.page.evaluate("window.heard"))

    @property
    def resets(self) -> list[Any]:
        return list(self.page.evaluate("window.resets"))

    @property
    def snapshots(self) -> list[Any]:
        return list(self.page.evaluate("window.snapshots"))

    @property
    def states(self) -> list[str]:
        return [f"{state} {reason}".strip() for state, reason in self.page.evaluate("states")]

    @property
    def connections(self) -> int:
        """How many streams this page has asked the server for."""
        return int(self.page.evaluate("window.asked ?? 0"))

    def until(self, condition: str, within: float = 20.0) -> None:
        """Wait for a condition in JavaScript; say what there was instead."""
        try:
            self.page.wait_for_function(f"() => {condition}", timeout=within * 1000)
        except Exception as error:
            raise AssertionError(f"not {condition}: {self.states}, {self.heard}") from error

    def until_open(self, within: float = 20.0) -> None:
        self.until("stream.state === 'open'", within)

    def until_heard(self, count: int, within: float = 20.0) -> None:
        self.until(f"heard.length >= {count}", within)

    def close(self) -> None:
        assert self.errors == []
        self.page.close()


class Tabs:
    """Pages of one browser profile."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.all: list[Tab] = []
        #: What the next tabs load.
        self.page = PAGE

    def open(self, query: str, **options: Any) -> Tab:
        """Open a tab, and return when its stream is open."""
        tab = self.begin(query, **options)
        tab.until_open()
        return tab

    def begin(self, query: str, **options: Any) -> Tab:
        url = query if query.startswith(("/", "http")) else f"/events/?{query}"
        tab = Tab(self.context.new_page(), url, options, self.page)
        self.all.append(tab)
        return tab

    def sign_in(self, name: str) -> int:
        return int(self.context.request.post("/test/login/", form={"name": name}).json()["pk"])

    def url_of(self, *groups: str) -> str:
        """The URL that the tag renders for this profile's user."""
        tag = "{% sse_url " + " ".join(f'"{group}"' for group in groups) + " %}"
        return self.context.request.get(f"/test/page/?tag={quote(tag)}").text()


@pytest.fixture
def open_tabs(browser: Browser) -> Iterator[Callable[..., Tabs]]:
    """Open a browser profile on a site; with options of Playwright's `new_context()`."""
    profiles: list[Tabs] = []

    def open_tabs(url: str, **options: Any) -> Tabs:
        profiles.append(Tabs(browser.new_context(base_url=url, **options)))
        profiles[-1].context.add_init_script(COUNT)
        return profiles[-1]

    yield open_tabs
    for tabs in profiles:
        errors = [error for tab in tabs.all for error in tab.errors]
        tabs.context.close()
        assert errors == []


def publish(site: Daphne, numbers: range, group: str = "orders") -> None:
    """Publish numbers, each an event named "n"."""
    for n in numbers:
        site.publish(group, "n", str(n))
