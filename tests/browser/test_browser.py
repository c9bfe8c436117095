"""The demo's pages in a real Chromium."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from ..support.pages import is_live
from ..support.patience import PATIENCE
from ..support.servers import Daphne, eventually


def test_an_order_saved_in_the_admin_by_another_user_moves_the_board(
    open_page: Callable[..., Page],
) -> None:
    watcher = open_page("/board/")
    is_live(watcher)
    expect(watcher.get_by_test_id("clock")).to_contain_text(":")
    card = watcher.locator("[data-testid^=order-][data-status=new]").first
    testid = str(card.get_attribute("data-testid"))
    pk = testid.removeprefix("order-")
    admin = open_page(f"/admin/project/order/{pk}/change/", "admin")
    admin.select_option("select[name=status]", "packed")
    admin.click("input[name=_save]")
    expect(watcher.get_by_test_id(testid)).to_have_attribute("data-status", "packed")
    expect(watcher.get_by_test_id("event-log")).to_contain_text("order.updated")


def test_a_button_moves_the_board_in_every_tab(open_page: Callable[..., Page]) -> None:
    one, two = open_page("/board/"), open_page("/board/")
    is_live(one)
    is_live(two)
    before = two.locator("[data-testid^=order-]").count()
    one.get_by_test_id("new-order").click()
    for page in (one, two):
        expect(page.locator("[data-testid^=order-]")).to_have_count(before + 1)


def test_a_broadcast_sent_in_the_admin_appears(open_page: Callable[..., Page]) -> None:
    watcher = open_page("/board/")
    is_live(watcher)
    admin = open_page("/admin/sse_app/broadcast/add/", "admin")
    admin.locator("input[name=groups]").press_sequentially("ord")
    names = admin.get_by_role("option")
    expect(names.first).to_have_text("orders")
    admin.keyboard.press("ArrowDown")
    expect(names.first).to_have_attribute("aria-selected", "true")
    admin.keyboard.press("Enter")
    expect(admin.locator("input[name=groups]")).to_have_value("orders, ")
    expect(names).to_have_count(0)
    admin.fill("input[name=event]", "broadcast")
    admin.check("input[value=text]")
    admin.fill("textarea[name=body]", "Lunch is <b>ready</b> {{ sender }}")
    admin.click("input[name=_preview]")
    expect(admin.locator("#preview")).to_contain_text("Lunch is <b>ready</b> {{ sender }}")
    admin.click("input[name=_continue]")
    expect(admin.locator(".sse-listeners")).to_contain_text("At least 1 stream")
    expect(watcher.get_by_test_id("banner")).to_have_text("")
    admin.click("input[name=_confirm]")
    expect(admin.locator(".messagelist")).to_contain_text("was sent")
    expect(watcher.get_by_test_id("banner")).to_contain_text("Lunch is <b>ready</b> {{ sender }}")
    delivered = admin.locator("td.field-delivered").first
    reload_until(admin, delivered, "1")
    admin.locator("#result_list tbody th a").first.click()
    expect(admin.locator(".field-body_text")).to_contain_text("{{ sender }}")


def reload_until(page: Page, place: Locator, text: str) -> None:
    """The admin's pages do not move by themselves."""

    def shown() -> bool:
        page.reload()
        return place.inner_text() == text

    eventually(shown)


@pytest.mark.slow
def test_a_scheduled_broadcast_is_cancelled_and_repeated_from_the_list(
    open_page: Callable[..., Page],
) -> None:
    watcher = open_page("/board/")
    is_live(watcher)
    admin = open_page("/admin/sse_app/broadcast/add/", "admin")
    admin.fill("input[name=groups]", "orders")
    admin.check("input[value=text]")
    admin.fill("textarea[name=body]", "The shop closes")
    admin.get_by_text("Today", exact=True).first.click()  # a link, and a button in Django 6.1
    admin.fill("input[name=send_at_1]", "23:59:59")
    admin.click("input[name=_continue]")
    admin.click("input[name=_confirm]")
    expect(admin.locator(".messagelist")).to_contain_text("is scheduled for")
    for action, said in (("cancel_selected", "1 broadcast was cancelled"), ("repeat_selected", "")):
        admin.locator("input.action-select").first.check()
        admin.select_option("select[name=action]", action)
        admin.click("button[name=index]")
        if said:
            expect(admin.locator(".messagelist")).to_contain_text(said)
    expect(admin.locator(".sse-table")).to_contain_text("The shop closes")
    expect(watcher.get_by_test_id("banner")).to_have_text("")
    admin.click("input[name=_confirm]")
    expect(admin.locator(".messagelist")).to_contain_text("was sent")
    expect(watcher.get_by_test_id("banner")).to_contain_text("The shop closes")


@pytest.mark.slow
def test_selected_orders_can_be_broadcast_from_their_list(open_page: Callable[..., Page]) -> None:
    watcher = open_page("/board/")
    is_live(watcher)
    admin = open_page("/admin/project/order/", "admin")
    admin.locator("input.action-select").first.check()
    admin.select_option("select[name=action]", "broadcast_selected")
    admin.click("button[name=index]")
    expect(admin.locator(".messagelist")).to_contain_text("1 broadcast was sent")
    expect(watcher.get_by_test_id("event-log")).to_contain_text("broadcast")


@pytest.mark.slow
def test_the_chat_shows_who_is_there_and_moves_as_they_come_and_go(
    open_page: Callable[..., Page],
) -> None:
    guest = open_page("/chat/lobby/")
    people = guest.get_by_test_id("chat-people").locator("li")
    is_live(guest)
    expect(guest.locator("#people-empty")).to_be_visible()
    ann, again = open_page("/chat/lobby/", "ann"), open_page("/chat/lobby/", "ann")
    expect(people).to_have_text(["ann"])
    expect(guest.locator("#people-empty")).to_be_hidden()
    bob = open_page("/chat/lobby/", "bob")
    expect(bob.get_by_test_id("chat-people").locator("li")).to_have_text(["ann", "bob"])
    ann.close()
    bob.close()
    expect(people).to_have_text(["ann"])
    again.close()
    expect(people).to_have_count(0)
    expect(guest.locator("#people-empty")).to_be_visible()


@pytest.mark.slow
def test_a_chat_message_reaches_a_second_browser_and_its_history(
    open_page: Callable[..., Page],
) -> None:
    ann, guest = open_page("/chat/lobby/", "ann"), open_page("/chat/lobby/")
    is_live(ann)
    is_live(guest)
    ann.get_by_test_id("chat-input").fill("Grüße & <script>")
    ann.get_by_test_id("chat-form").locator("button").click()
    for page in (ann, guest):
        expect(page.get_by_test_id("chat-log")).to_contain_text("Grüße & <script>")
        expect(page.get_by_test_id("chat-log")).to_contain_text("ann")
    expect(guest.get_by_test_id("chat-form")).to_have_count(0)
    late = open_page("/chat/lobby/")
    expect(late.get_by_test_id("chat-log")).to_contain_text("Grüße & <script>")


@pytest.mark.slow
def test_who_types_is_shown_until_it_is_said_and_a_command_is_answered_to_one_page(
    open_page: Callable[..., Page],
) -> None:
    ann, guest = open_page("/chat/lobby/", "ann"), open_page("/chat/lobby/")
    for page in (ann, guest):
        is_live(page)
    # Presence is kept once a second, and nothing says sooner who is here.
    expect(ann.get_by_test_id("chat-people")).to_contain_text("ann")
    said = ann.get_by_test_id("chat-input")
    said.press_sequentially("hi")
    expect(guest.get_by_test_id("chat-typing")).to_have_text("ann is typing …")
    expect(ann.get_by_test_id("chat-typing")).to_be_empty()
    said.press("Enter")
    expect(guest.get_by_test_id("chat-log")).to_contain_text("hi")
    expect(guest.get_by_test_id("chat-typing")).to_be_empty()
    said.fill("/who")
    said.press("Enter")
    expect(ann.get_by_test_id("chat-log")).to_contain_text("Here: ann.")
    said.fill("bye")
    said.press("Enter")
    expect(guest.get_by_test_id("chat-log")).to_contain_text("bye")
    expect(guest.get_by_test_id("chat-log")).not_to_contain_text("Here:")


def test_the_one_off_clock_ticks(open_page: Callable[..., Page]) -> None:
    page = open_page("/clock/")
    expect(page.get_by_test_id("clock")).to_contain_text(":")


@pytest.mark.slow
def test_the_server_restarts_and_the_page_goes_on_without_loss_or_repeat(
    open_page: Callable[..., Page], site: Daphne
) -> None:
    page = open_page("/board/")
    is_live(page)
    page.evaluate(
        """() => {
            window.seen = [];
            const source = new EventSource('/events/?group=chat.restart');
            source.addEventListener('n', event => window.seen.push(event.data));
            return new Promise(done => source.addEventListener('sse.open', done, {once: true}));
        }"""
    )
    for n in range(5):
        site.publish("chat.restart", "n", str(n))
    site.stop()
    site.shell("from sse_app import publish\nfor n in range(5, 9): publish('chat.restart', 'n', n)")
    site.start()
    for n in range(9, 12):
        site.publish("chat.restart", "n", str(n))
    page.wait_for_function("() => window.seen.length >= 12", timeout=PATIENCE * 1000)
    assert page.evaluate("window.seen") == [str(n) for n in range(12)]
    # A farewell spreads its readers over ten seconds, each EventSource at a moment of its own.
    is_live(page, within=30)
    card = page.locator("[data-testid^=order-][data-status=new]").first
    testid = str(card.get_attribute("data-testid"))
    site.shell(
        f"from project.models import Order\nOrder.objects.get(pk={testid.split('-')[1]}).advance()"
    )
    expect(page.get_by_test_id(testid)).to_have_attribute("data-status", "paid")


def test_the_pages_fit_a_phone(open_page: Callable[..., Page]) -> None:
    page = open_page("/board/")
    page.set_viewport_size({"width": 375, "height": 740})
    is_live(page)
    wider = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wider <= 0


LISTEN = """url => new Promise(done => {
    window.seen = [];
    window.source = new EventSource(url, {withCredentials: true});
    source.addEventListener('n', event => window.seen.push(event.data));
    source.addEventListener('sse.open', () => done('open'), {once: true});
    source.addEventListener('error', () => done(source.readyState));
})"""
CLOSED = 2  # EventSource.CLOSED: it never comes back by itself
RESUME = """async url => {
    const headers = {'Last-Event-ID': 'x', 'Cache-Control': 'no-cache'};
    const answer = await fetch(url, {headers, credentials: 'include'});
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    let text = '';
    while (!text.includes('sse.reset')) {
        const {done, value} = await reader.read();
        if (done) break;
        text += decoder.decode(value, {stream: true});
    }
    return text;
}"""


@pytest.mark.slow
def test_a_page_of_a_listed_origin_hears_its_users_groups_and_comes_back_to_them(
    browser: Browser, make_daphne: Callable[..., Daphne]
) -> None:
    """The same host has the same cookies at every port, and each port is an origin."""
    site = make_daphne()
    other = make_daphne(RETRY=[0.2, 0.3], ALLOWED_ORIGINS=[site.url])
    context = browser.new_context(base_url=site.url, bypass_csp=True)
    page = context.new_page()
    key = page.request.post("/test/login/", form={"name": "ann"}).json()["pk"]
    page.goto("/")
    url = f"{other.url}/events/?group=user.{key}"
    assert page.evaluate(LISTEN, url) == "open"
    other.publish(f"user.{key}", "n", "before")
    page.wait_for_function("() => window.seen.length === 1")
    other.stop()
    other.start()
    other.publish(f"user.{key}", "n", "after")
    page.wait_for_function("() => window.seen.length === 2", timeout=PATIENCE * 1000)
    assert page.evaluate("window.seen") == ["before", "after"]
    assert "sse.reset" in page.evaluate(RESUME, url)  # With headers that need a preflight.
    context.close()


def test_a_page_of_another_origin_hears_nothing(browser: Browser, site: Daphne) -> None:
    site.shell("from sse_app import publish; publish('orders', 'n', '1')")
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(f"http://localhost:{site.port}/")
    url = f"{site.url}/events/?group=orders&from=earliest"
    assert page.evaluate(LISTEN, url) == CLOSED
    assert page.evaluate("window.seen") == []
    embed = """url => new Promise(done => {
        const script = document.createElement('script');
        script.src = url;
        script.onload = () => done('loaded');
        script.onerror = () => done('refused');
        document.head.append(script);
    })"""
    assert page.evaluate(embed, url) == "refused"
    context.close()


@pytest.mark.slow
def test_the_bar_of_the_import_moves_on_every_page_and_on_one_that_comes_late(
    open_page: Callable[..., Page],
) -> None:
    one, two = open_page("/import/"), open_page("/import/")
    one.get_by_test_id("import-start").click()
    for page in (one, two):
        expect(page.get_by_test_id("import")).to_have_attribute("data-state", "running")
        expect(page.get_by_role("progressbar", name="Import of 200 rows")).to_be_visible()
        expect(page.get_by_test_id("import-start")).to_be_disabled()
    late = open_page("/import/")
    for page in (one, two, late):
        expect(page.get_by_test_id("import-bar")).to_have_js_property("value", 200)
        expect(page.get_by_role("status").last).to_have_text("The import is done.")
