"""Pages of the demo in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from .servers import Daphne


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Daphne]:
    folder = tmp_path_factory.mktemp("demo")
    environment = {"DATABASE_URL": f"sqlite:///{shutil.copy(migrated, folder)}", "REDIS_URL": ""}
    server = Daphne(folder, environment, RETRY=[0.2, 0.3])
    server.manage("demo_data")
    yield server.start()
    server.close()


@pytest.fixture
def open_page(browser: Browser, site: Daphne) -> Iterator[Callable[..., Page]]:
    """Open a page of the demo in a browser profile of its own, signed in or not."""
    contexts: list[Any] = []

    def open_page(path: str = "/board/", name: str = "") -> Page:
        context = browser.new_context(base_url=site.url)
        contexts.append(context)
        page = context.new_page()
        if name:
            page.goto("/login/")
            page.fill("input[name=username]", name)
            page.fill("input[name=password]", name)
            page.locator("input[name=password]").press("Enter")
            page.wait_for_url("**/")
        page.goto(path)
        return page

    yield open_page
    for context in contexts:
        context.close()


def is_live(page: Page, within: float = 5.0) -> None:
    state = page.get_by_test_id("state").first
    expect(state).to_have_attribute("data-state", "live", timeout=within * 1000)


WATCH = """
window.ran = [];
window.pwned = () => window.ran.push('ran');
document.addEventListener('securitypolicyviolation', event => window.ran.push(event.blockedURI));
"""


SEND = """async ([event, data, options]) => {
    try {
        return {answer: await stream.send(event, data ?? undefined, options ?? undefined)};
    } catch (error) {
        return {name: error.constructor.name, status: error.status, text: error.message};
    }
}"""


RESET = "from django.core.management import call_command\ncall_command('sse_new_epoch')"
