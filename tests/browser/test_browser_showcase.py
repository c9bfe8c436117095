"""The landing page's toys in a real Chromium: what they say is what happened."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from ..clients import CLIENTS
from ..support.servers import Daphne

KINDS = ("plain", "own", "shared")
CLEAN = "200 events, 0 lost, 0 repeated"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Daphne]:
    """One server for all: a toy leaves the others as it found them."""
    folder = tmp_path_factory.mktemp("showcase")
    database = folder / "db.sqlite3"
    database.write_bytes(migrated.read_bytes())
    environment = {"DATABASE_URL": f"sqlite:///{database}", "REDIS_URL": ""}
    server = Daphne(folder, environment, RETRY=[0.2, 0.3])
    yield server.start()
    server.close()


@pytest.fixture
def page(browser: Browser, site: Daphne) -> Iterator[Page]:
    """The landing page with all its panes live; nothing in it may fail unseen."""
    context = browser.new_context(base_url=site.url)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto("/")
    for kind in KINDS:
        expect(state_of(page, kind)).to_have_attribute("data-state", "live")
    yield page
    context.close()
    assert errors == []


def state_of(page: Page, kind: str) -> Locator:
    return page.get_by_test_id(f"pane-{kind}").locator("[data-field=state]")


def press(page: Page, path: str) -> int:
    """POST as a button of the page does; return the status."""
    token = page.locator("meta[name=csrf-token]").get_attribute("content")
    headers = {"X-CSRFToken": str(token), "Referer": page.url}
    return page.context.request.post(path, headers=headers).status


def test_an_order_saved_moves_every_pane(page: Page) -> None:
    page.get_by_test_id("save").click()
    for kind in KINDS:
        expect(page.get_by_test_id(f"pane-{kind}").locator("li").first).to_contain_text(
            "order.created"
        )
        expect(page.get_by_test_id(f"pane-{kind}").locator("[data-field=count]")).to_have_text("1")
    expect(page.get_by_test_id("said")).to_have_text("")  # Nobody wants every event read out.


@pytest.mark.parametrize("kind", ["plain", "own"])
def test_a_pane_without_its_plug_gets_what_it_missed_once(page: Page, kind: str) -> None:
    plug, verdict = page.get_by_test_id(f"plug-{kind}"), page.get_by_test_id(f"verdict-{kind}")
    plug.click()
    expect(verdict).to_have_text("Unplugged. 200 events were published meanwhile.")
    expect(page.get_by_test_id("verdict-shared")).to_have_text(f"Live: {CLEAN}.")
    expect(state_of(page, kind)).to_have_text("unplugged")
    expect(page.get_by_test_id(f"pane-{kind}").locator("[data-field=count]")).to_have_text("0")
    plug.click()
    expect(verdict).to_have_text(f"Recovered: {CLEAN}.")
    expect(page.get_by_test_id("said")).to_have_text(f"Recovered: {CLEAN}.")


@pytest.mark.slow
def test_a_hidden_tab_gives_back_its_own_connections_and_catches_up(page: Page) -> None:
    turn = """hidden => {
        Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    page.evaluate(turn, True)
    for kind in ("plain", "own"):
        expect(state_of(page, kind)).to_have_text("resting")
    expect(state_of(page, "shared")).to_have_text("live")
    page.get_by_test_id("save").click()
    expect(page.get_by_test_id("pane-shared").locator("li").first).to_contain_text("order.")
    page.evaluate(turn, False)
    for kind in ("plain", "own"):
        expect(page.get_by_test_id(f"pane-{kind}").locator("li").first).to_contain_text("order.")
        expect(page.get_by_test_id(f"verdict-{kind}")).to_contain_text("sent again: 1.")


@pytest.mark.slow
def test_what_was_lost_or_repeated_is_counted_and_not_assumed(page: Page) -> None:
    text = page.evaluate(
        """async () => {
            const {Tally} = await import('/static/project/panes.js');
            const tally = new Tally({of: 5, why: 'burst'});
            [1, 2, 2, 5].forEach(n => tally.take(n));
            return `${tally}`;
        }"""
    )
    assert text == "3 events, 2 lost, 1 repeated"


@pytest.mark.slow
def test_wiped_history_is_told_to_every_pane_which_reads_the_orders_again(page: Page) -> None:
    page.get_by_test_id("wipe").click()
    for kind in KINDS:
        expect(
            page.get_by_test_id(f"pane-{kind}").locator("li[data-event='sse.reset']")
        ).to_have_text("sse.resetshowcase: epoch")
        expect(page.get_by_test_id(f"verdict-{kind}")).to_contain_text(
            re.compile(r"^sse\.reset of showcase \(epoch\): read \d+ orders again")
        )


@pytest.mark.slow
def test_a_throttled_reader_lags_for_the_server_and_catches_up(page: Page) -> None:
    page.get_by_test_id("slow").click()
    reader = page.get_by_test_id("slow-reader")
    expect(reader).to_have_attribute("data-state", "lagging")
    page.get_by_test_id("save").click()
    expect(page.get_by_test_id("pane-plain").locator("li").first).to_contain_text("order.")
    expect(reader).to_have_attribute("data-state", "lagging")  # The others did not wait for it.
    expect(reader).to_contain_text("Caught up after lagging: 300 events, 0 lost, 0 repeated.")


@pytest.mark.slow
def test_a_second_tab_shares_the_connection_of_the_first(page: Page) -> None:
    expect(page.get_by_test_id("tab-count")).to_have_text("1")
    with page.expect_popup() as opened:
        page.get_by_test_id("open-tab").click()
    expect(opened.value.get_by_test_id("state")).to_have_attribute("data-state", "live")
    expect(page.get_by_test_id("tab-count")).to_have_text("2")
    expect(page.get_by_test_id("shared-count")).to_have_text("1")


def test_the_table_lists_the_clients_that_are_tested(page: Page) -> None:
    names = page.get_by_test_id("clients").locator("tbody th")
    expect(names).to_have_text([f"✓ {client.name}" for client in CLIENTS])
    expect(page.get_by_role("heading", name=f"{len(CLIENTS)} of {len(CLIENTS)}")).to_be_visible()


def test_the_page_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 375, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


def test_buttons_have_a_rate_for_everybody_together(page: Page) -> None:
    assert 429 in [press(page, "/showcase/wipe/") for _ in range(6)]


def test_only_the_demo_s_runner_is_told_to_restart_the_server(page: Page) -> None:
    expect(page.get_by_test_id("restart")).to_have_count(0)
    assert press(page, "/showcase/restart/") == 403
