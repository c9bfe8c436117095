"""Hostile data and hostile origins in a real Chromium: text stays text, and strangers stay out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from ..support.pages import WATCH, is_live
from ..support.patience import PATIENCE
from ..support.servers import Daphne

pytestmark = pytest.mark.slow

#: `pwned()` is defined on every page, so that whatever runs is noticed.
MARKUP = (
    "<img src=x onerror=pwned()>",
    "</script><script>pwned()</script>",
    "<svg onload=pwned()>",
    '"><iframe srcdoc="<script>parent.pwned()</script>">',
    "<a href=javascript:pwned()>click</a>",
    "javascript:pwned()",
    "&lt;img src=x onerror=pwned()&gt;",
    "{{constructor.constructor('pwned()')()}}",
    "';pwned();'",
)
INJECTED = "img, iframe, svg[onload], a[href^='javascript:'], script:not([src]):not([type])"


class Watched:
    """A page that tells what was executed, tried, or asked."""

    def __init__(self, context: BrowserContext, path: str) -> None:
        self.dialogs: list[str] = []
        self.page = context.new_page()
        self.page.add_init_script(WATCH)
        self.page.on("dialog", self._dismiss)
        self.page.goto(path)
        self.before = self.page.locator(INJECTED).count()

    def _dismiss(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def assert_harmless(self) -> None:
        """Nothing ran, nothing was even kept from running by the policy, no markup was made."""
        assert self.dialogs == []
        assert self.page.evaluate("window.ran") == []
        assert self.page.locator(INJECTED).count() == self.before


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daphne]:
    folder = tmp_path_factory.mktemp("markup")
    environment = {"DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}", "REDIS_URL": ""}
    server = Daphne(folder, environment, SPEAK_RATE=1000, SPEAK_BURST=1000)
    server.manage("migrate", "--verbosity", "0")
    yield server.start()
    server.close()


@pytest.fixture
def context(browser: Browser, site: Daphne) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=site.url)
    yield context
    context.close()


def run(site: Daphne, code: str) -> Any:
    answer = httpx.post(f"{site.url}/test/run/", data={"code": code}, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text[-2000:]
    return answer.json()["result"]


def sign_in(context: BrowserContext, name: str) -> int:
    answer = context.request.post("/test/login/", form={"name": name})
    return int(answer.json()["pk"])


def test_event_data_and_order_fields_are_text_on_the_board(
    context: BrowserContext, site: Daphne
) -> None:
    board = Watched(context, "/board/")
    is_live(board.page)
    for text in MARKUP:
        for name, data in (("broadcast", {"text": text}), ("message", text), ("message", [text])):
            run(site, f"from sse_app import publish\npublish('orders', {name!r}, {data!r})")
        pk = run(
            site,
            "from project.models import Order\n"
            f"order = Order(customer={text[:60]!r}, item={text!r}, total=1)\n"
            "order.save()\nresult = order.pk",
        )
        card = board.page.get_by_test_id(f"order-{pk}")
        expect(card).to_contain_text(text[:60])
        expect(board.page.get_by_test_id("banner").last).to_contain_text(text)
    for wrong in ("pk", "status"):
        order = {"pk": 1, "status": "new", "item": "x", wrong: MARKUP[0] + '"]'}
        run(site, f"from sse_app import publish\npublish('orders', 'order.updated', {order!r})")
    run(site, "from sse_app import publish\npublish('orders', 'message', 'the last')")
    expect(board.page.get_by_test_id("banner").last).to_contain_text("the last")
    board.assert_harmless()
    rendered = Watched(context, "/board/")
    expect(rendered.page.locator("#board")).to_contain_text(MARKUP[0])
    assert rendered.page.evaluate("window.ran") == []
    assert rendered.before == board.before, "the server renders no markup either"


def test_what_is_said_in_the_chat_and_who_says_it_is_text(
    context: BrowserContext, site: Daphne
) -> None:
    name = MARKUP[0]
    sign_in(context, name)
    chat = Watched(context, "/chat/lobby/")
    is_live(chat.page)
    log = chat.page.get_by_test_id("chat-log")
    for text in MARKUP:
        chat.page.get_by_test_id("chat-input").fill(text)
        chat.page.get_by_test_id("chat-form").locator("button").click()
        expect(log.locator("li").last).to_contain_text(text)
        expect(log.locator("li").last).to_contain_text(name)
    forged = {"id": 'x"]', "author": name, "text": MARKUP[1], "at": MARKUP[2]}
    run(site, f"from sse_app import publish\npublish('chat.lobby', 'chat.message', {forged!r})")
    expect(log.locator("li").last).to_contain_text(MARKUP[1])
    chat.assert_harmless()
    rendered = Watched(context, "/chat/lobby/")
    expect(rendered.page.get_by_test_id("chat-log")).to_contain_text(MARKUP[0])
    assert rendered.page.evaluate("window.ran") == []
    assert rendered.before == chat.before, "the server renders no markup either"


def test_what_stands_in_an_address_is_text(context: BrowserContext) -> None:
    for path in ("/chat/{}/", "/events/?group={}", "/clock/?x={}", "/{}/"):
        for text in MARKUP[:4]:
            watched = Watched(context, path.format(quote(text, safe="")))
            assert watched.dialogs == []
            assert watched.page.evaluate("window.ran") == []
            watched.page.close()  # It may hold one of the six connections to the server.


def test_the_clock_shows_what_it_is_told_as_text(context: BrowserContext, site: Daphne) -> None:
    context.route(
        "**/clock/stream/",
        lambda route: route.fulfill(
            content_type="text/event-stream",
            body="".join(
                f"event: {name}\ndata: {data}\n\n"
                for text in MARKUP
                for name, data in (("tick", json.dumps({"time": text})), ("message", text))
            ),
        ),
    )
    clock = Watched(context, "/clock/")
    expect(clock.page.get_by_test_id("clock").first).to_contain_text("Invalid")
    clock.assert_harmless()


def test_the_admins_pages_of_broadcasts_show_text(context: BrowserContext, site: Daphne) -> None:
    sign_in(context, "boss")
    run(
        site,
        "from django.contrib.auth.models import User\n"
        "User.objects.filter(username='boss').update(is_staff=True, is_superuser=True)",
    )
    form = Watched(context, "/admin/sse_app/broadcast/add/")
    for text in MARKUP:
        form.page.goto("/admin/sse_app/broadcast/add/")
        form.page.fill("input[name=groups]", text)
        form.page.fill("input[name=event]", text)
        form.page.check("input[value=text]")
        form.page.fill("textarea[name=body]", text)
        form.page.click("input[name=_continue]")
        expect(form.page.locator(".errorlist").first).to_be_visible()
        assert form.page.evaluate("window.ran") == []
        form.page.fill("input[name=groups]", "orders")
        form.page.fill("input[name=event]", "broadcast")
        form.page.click("input[name=_preview]")
        expect(form.page.locator(".sse-preview")).to_contain_text(text)
        assert form.page.evaluate("window.ran") == []
        form.page.click("input[name=_continue]")
        expect(form.page.locator(".sse-text")).to_contain_text(text)
        assert form.page.evaluate("window.ran") == []
        form.page.click("input[name=_confirm]")
        expect(form.page.locator(".messagelist")).to_contain_text("was sent")
        form.page.locator("#result_list tbody th a").first.click()
        expect(form.page.locator(".field-body_text")).to_contain_text(text)
        assert form.page.evaluate("window.ran") == []
    assert form.dialogs == []


# --- pages of another origin ---

LISTEN = """async url => new Promise(done => {
    window.seen = [];
    const source = new EventSource(url, {withCredentials: true});
    source.addEventListener('n', event => {
        window.seen.push(event.data);
        window.last = event.lastEventId;
    });
    source.addEventListener('sse.open', () => done('open'));
    source.addEventListener('error', () => source.readyState === 2 && done('refused'));
})"""
FETCH = """async ([url, id]) => {
    const headers = {'Last-Event-ID': id};
    try {
        const answer = await fetch(url, {headers, credentials: 'include'});
        const chunk = await answer.body.getReader().read();
        return new TextDecoder().decode(chunk.value);
    } catch (error) {
        return String(error);
    }
}"""


@pytest.fixture
def stranger(browser: Browser, make_daphne: Callable[..., Daphne]) -> Iterator[Page]:
    """A page of another origin, whose own policy lets it ask anybody."""
    context = browser.new_context(base_url=make_daphne().url, bypass_csp=True)
    page = context.new_page()
    page.goto("/clock/")
    yield page
    context.close()


def url_for_a_visitor(page: Page, daphne: Daphne) -> tuple[str, str]:
    """Sign in at `daphne`; return the visitor's own group, and its stream's address."""
    answer = page.context.request.post(f"{daphne.url}/test/login/", form={"name": "ann"})
    group = f"user.{answer.json()['pk']}"
    return group, f"{daphne.url}/events/?group={group}"


def test_a_page_of_another_origin_is_refused_by_default(
    stranger: Page, make_daphne: Callable[..., Daphne]
) -> None:
    _, url = url_for_a_visitor(stranger, make_daphne())
    assert stranger.evaluate(LISTEN, url) == "refused"
    assert "TypeError" in stranger.evaluate(FETCH, [url, "x"])


def test_a_page_of_a_configured_origin_listens_as_the_visitor_and_resumes(
    stranger: Page, make_daphne: Callable[..., Daphne]
) -> None:
    origin = stranger.evaluate("location.origin")
    daphne = make_daphne(ALLOWED_ORIGINS=[origin], RETRY=[0.2, 0.3])
    group, url = url_for_a_visitor(stranger, daphne)
    assert stranger.evaluate(LISTEN, url) == "open"
    daphne.publish(group, "n", "before")
    stranger.wait_for_function("window.seen.length === 1")
    position = stranger.evaluate("window.last")
    daphne.stop()
    daphne.shell(f"from sse_app import publish\npublish({group!r}, 'n', 'meanwhile')")
    daphne.start()
    daphne.publish(group, "n", "after")
    stranger.wait_for_function("window.seen.length >= 3", timeout=PATIENCE * 1000)
    assert stranger.evaluate("window.seen") == ["before", "meanwhile", "after"]
    # This one may not send the header before the server has permitted it.
    told = stranger.evaluate(FETCH, [url, position])
    assert '"recovered":true,"missed":2' in told
