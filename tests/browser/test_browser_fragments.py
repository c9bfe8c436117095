"""Fragments in a real Chromium: the demo's pages for htmx and for Turbo."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

from ..clients import NODE_MODULES
from ..support.pages import is_live
from ..support.servers import Daphne

pytestmark = pytest.mark.slow


PAGES = ["/htmx/", "/turbo/"]
ROW = "[data-testid^=row-]"
# What a row says is marked in the page, to see whether it was swapped or the page loaded again.
HEARD = {"/htmx/": "order.row", "/turbo/": "message"}
SPY = """() => {
    window.sources = [];
    window.EventSource = class extends EventSource {
        constructor(...args) {
            super(...args);
            sources.push(this);
            this.arrived = [];
            this.addEventListener('sse.open', () => this.open = true);
            this.addEventListener('sse.reset', () => sessionStorage.reset = 'yes');
            for (const name of ['order.row', 'message']) {
                this.addEventListener(name, event => this.arrived.push(event.lastEventId));
            }
        }
    };
}"""


@pytest.fixture
def site(make_daphne: Callable[..., Daphne]) -> Daphne:
    """A server for each test: the tests count the rows of the lists."""
    server = make_daphne(RETRY=[0.2, 0.3])
    server.manage("demo_data")
    return server


@pytest.fixture
def open_list(open_page: Callable[..., Page]) -> Callable[[str], Page]:
    """Open one of the pages and return it when its stream is open."""

    def open_list(path: str) -> Page:
        page = open_page("/login/")
        complaints: list[str] = []
        page.on("console", lambda said: complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.complaints = complaints  # type: ignore[attr-defined]
        page.add_init_script(f"({SPY})()")
        page.goto(path)
        page.wait_for_function("() => sources.some(source => source.open)")
        return page

    return open_list


def change(site: Daphne, code: str) -> str:
    return site.shell(f"from project import orders as shop\n{code}")


def complaints_of(page: Page) -> list[str]:
    said: Any = page.complaints  # type: ignore[attr-defined]
    return [text for text in said if "ERR_" not in text]


@pytest.mark.parametrize("path", PAGES)
def test_a_row_comes_when_it_is_made_moves_when_it_changes_and_goes_when_it_is_deleted(
    open_list: Callable[[str], Page],
    site: Daphne,
    path: str,
) -> None:
    page, other = open_list(path), open_list(path)
    assert page.locator(ROW).count() == 12
    page.get_by_test_id("place").click()
    for each in (page, other):
        expect(each.locator(ROW)).to_have_count(13)
    testid = str(other.locator(ROW).last.get_attribute("data-testid"))
    pk = testid.removeprefix("row-")
    status = other.get_by_test_id(testid).get_attribute("data-status")
    assert status != "delivered"
    page.get_by_test_id(f"advance-{pk}").click()
    for each in (page, other):
        expect(each.locator(ROW).first).to_have_attribute("data-testid", testid)
        expect(each.locator(ROW).first).not_to_have_attribute("data-status", str(status))
        expect(each.locator(ROW)).to_have_count(13)
    expect(page.get_by_test_id(f"advance-{pk}")).to_be_focused()
    change(site, "shop.clear_delivered(0)")
    for each in (page, other):
        expect(each.locator(f"{ROW}[data-status=delivered]")).to_have_count(0)
        assert each.locator(ROW).count() < 13
        assert complaints_of(each) == []  # Of the policy, or of a library.


@pytest.mark.parametrize("path", PAGES)
def test_a_row_that_arrives_twice_is_there_once(
    open_list: Callable[[str], Page],
    site: Daphne,
    path: str,
) -> None:
    page = open_list(path)
    change(site, "order = shop.Order.objects.last()\nfor n in range(3): shop.publish_row(order)")
    page.wait_for_function("() => sources[0].arrived.length === 3")
    expect(page.locator(ROW)).to_have_count(12)
    assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size") == (
        page.locator("[id]").count()
    )


@pytest.mark.parametrize("path", PAGES)
def test_the_server_restarts_and_no_row_is_lost_or_repeated(
    open_list: Callable[[str], Page],
    site: Daphne,
    path: str,
) -> None:
    page = open_list(path)
    page.evaluate("window.same = true")
    change(site, "for n in range(3): shop.place_order()")
    expect(page.locator(ROW)).to_have_count(15)
    site.stop()
    change(site, "for n in range(4): shop.place_order()")
    site.start()
    change(site, "for n in range(2): shop.place_order()")
    expect(page.locator(ROW)).to_have_count(21)
    ids = page.evaluate("sources.flatMap(source => source.arrived)")
    assert len(ids) == len(set(ids)) == 9
    assert page.evaluate("[window.same, sessionStorage.reset]") == [True, None]
    pks = page.locator(ROW).evaluate_all("rows => rows.map(row => Number(row.id.slice(6)))")
    assert pks[:9] == sorted(pks, reverse=True)[:9]


@pytest.mark.parametrize("path", PAGES)
def test_a_lost_history_makes_the_list_be_read_again(
    open_list: Callable[[str], Page],
    site: Daphne,
    path: str,
) -> None:
    page = open_list(path)
    site.stop()
    # Without its event, as in a restored backup: only reading again shows the row.
    change(site, "shop.Order.objects.create(customer='Ada', item='Lamp', total=1)")
    site.manage("sse_new_epoch")
    site.start()
    expect(page.locator(ROW)).to_have_count(13)
    assert page.evaluate("sessionStorage.reset") == "yes"
    page.wait_for_function("() => sources.at(-1).open")
    change(site, "shop.place_order()")
    expect(page.locator(ROW)).to_have_count(14)


def test_htmx_goes_on_from_the_last_row_after_a_refusal(
    open_list: Callable[[str], Page],
    site: Daphne,
) -> None:
    """The extension would open the address of the page again, from where it was rendered."""
    page = open_list("/htmx/")
    change(site, "for n in range(2): shop.place_order()")
    page.wait_for_function("() => sources[0].arrived.length === 2")
    page.route("**/events/**", lambda route: route.fulfill(status=502))
    site.stop()
    page.wait_for_function("() => sources.length > 1")
    site.start()
    page.unroute("**/events/**")
    change(site, "shop.place_order()")
    expect(page.locator(ROW)).to_have_count(15)
    ids = page.evaluate("sources.flatMap(source => source.arrived)")
    assert len(ids) == len(set(ids)) == 3


@pytest.mark.parametrize("path", PAGES)
def test_a_stream_whose_right_has_ended_is_not_opened_again(
    open_list: Callable[[str], Page], site: Daphne, path: str
) -> None:
    page = open_list(path)
    group = path.strip("/").join(["orders.", ""])
    site.shell(f"from sse_app import disconnect\ndisconnect(group={group!r})")
    page.wait_for_function("() => sources.every(source => source.readyState === source.CLOSED)")
    assert page.evaluate("sources.length") == 1


def test_the_other_pages_work_when_they_are_reached_from_turbos(
    open_list: Callable[[str], Page],
) -> None:
    page = open_list("/turbo/")
    for _ in range(2):
        page.get_by_role("link", name="Board").click()
        is_live(page)
        before = page.locator("[data-testid^=order-]").count()
        page.get_by_test_id("new-order").click()
        expect(page.locator("[data-testid^=order-]")).to_have_count(before + 1)
        page.get_by_role("link", name="Turbo").click()
        expect(page.locator(ROW)).to_have_count(before + 1)


@pytest.mark.parametrize("path", PAGES)
def test_the_lists_fit_a_phone(open_list: Callable[[str], Page], path: str) -> None:
    page = open_list(path)
    page.set_viewport_size({"width": 375, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


GUIDE = Path(__file__).parent.parent.parent / "docs" / "publishing" / "fragments.md"


@pytest.mark.npm
def test_the_example_for_alpine_makes_changes_and_removes_rows(
    browser: Browser, site: Daphne
) -> None:
    chapter = GUIDE.read_text().split("\n## Alpine\n")[1].split("\n## ")[0]
    html, script = re.findall(r"```(?:html|js)\n(.*?)```", chapter, re.DOTALL)
    rows = '<script type="application/json" id="rows">[{"pk": 0, "item": "Old"}]</script>'
    html = html.replace("{% load sse static %}", "{% load static %}")
    html = html.replace('{{ rows|json_script:"rows" }}', rows)
    context = browser.new_context(base_url=site.url)
    page = context.new_page()
    alpine = NODE_MODULES / "@alpinejs" / "csp" / "dist" / "cdn.min.js"
    kind = "text/javascript"
    page.route("**/board.js", lambda route: route.fulfill(body=script, content_type=kind))
    page.route("**/alpine.js", lambda route: route.fulfill(path=alpine, content_type=kind))
    page.goto(f"/test/page/?tag={quote(html)}")
    expect(page.locator("sse-stream")).to_have_attribute("state", "open")
    items = page.locator("li")
    expect(items).to_have_text(["Old"])
    for code, texts in (
        ("shop.Order.objects.create(customer='Ada', item='Lamp', total=1)", ["Lamp", "Old"]),
        ("order = shop.Order.objects.first(); order.item = 'Cup'; order.save()", ["Cup", "Old"]),
        ("shop.Order.objects.first().delete()", ["Old"]),
    ):
        change(site, code)
        expect(items).to_have_text(texts)
    context.close()
