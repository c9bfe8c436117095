"""The page's script: its parser, what it sends up, its element, its tag, and how large it is."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.staticfiles.storage import ManifestStaticFilesStorage
from django.core.management import call_command
from django.template import Context, Template
from django.test import RequestFactory, override_settings
from playwright.sync_api import Page, expect

import sse_app
from sse_app.protocol.replies import validate_tab

from ..clients import NODE_MODULES
from ..clients.listeners import NODE
from ..selection import first_then_slow
from ..support.cables import Cable
from ..support.pages import RESET, SEND
from ..support.patience import PATIENCE
from ..support.servers import Daphne, eventually
from ..support.sleepers import run
from ..support.tabs import PAGE, Tabs, open_tabs, publish

__all__ = ["open_tabs"]

SCRIPT = Path(sse_app.__file__).parent / "static" / "sse_app" / "sse.js"
QUICK: dict[str, Any] = {"RETRY": [0.2, 0.3], "HEARTBEAT": 0.5}


@pytest.fixture
def site(make_daphne: Callable[..., Daphne]) -> Daphne:
    return make_daphne(**QUICK)


@pytest.fixture
def tabs(site: Daphne, open_tabs: Callable[[str], Tabs]) -> Tabs:
    return open_tabs(site.url)


# --- how large, how typed ---


def node(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of npm's."""
    command = [NODE, NODE_MODULES / ".bin" / program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.npm
def test_it_has_at_most_6_kib_minified_and_compressed() -> None:
    done = node("esbuild", "--minify", "--format=esm", str(SCRIPT))
    assert done.returncode == 0, done.stderr
    assert len(gzip.compress(done.stdout.encode(), 9)) <= 6 * 1024


@pytest.mark.npm
def test_its_types_hold(tmp_path: Path) -> None:
    use = tmp_path / "use.ts"
    use.write_text(
        f'import {{ connect, RequestError, type State }} from "{SCRIPT.with_suffix("")}.js";\n'
        'const stream = connect("/events/?group=orders", {reset: ({group}) => fetch(group)});\n'
        "stream.on('order.updated', (order: {pk: number}, {id}) => [order.pk, id.length]);\n"
        "stream.on('state', (state) => { const known: State = state; return known; });\n"
        "stream.send<{id: number}>('chat.message', {text: ''}).then(({id}) => id + 1)\n"
        "  .catch((error) => error instanceof RequestError && error.status);\n"
        "document.querySelector('sse-stream')?.stream?.close();\n"
        "// @ts-expect-error: there is no such state\n"
        "const wrong: State = 'live';\n"
    )
    done = node(
        "tsc",
        *("--noEmit", "--strict", "--allowJs", "--checkJs"),
        *("--target", "es2023", "--module", "esnext", "--moduleResolution", "bundler"),
        *("--lib", "es2023,dom,dom.iterable", str(SCRIPT), str(SCRIPT.with_suffix(".d.ts"))),
        *map(str, SCRIPT.parent.glob("live*.js")),
        str(use),
    )
    # The vendored script is checked, too, where another one imports it.
    wrong = [
        line for line in done.stdout.splitlines() if not re.match(r"\S*idiomorph\.js|\s", line)
    ]
    assert wrong == [], done.stdout + done.stderr


class Manifest(ManifestStaticFilesStorage):
    """Renames files by their content, and also renames the imports of a script."""

    support_js_module_import_aggregation = True


@pytest.mark.parametrize("storage", first_then_slow([Manifest, ManifestStaticFilesStorage]))
def test_it_can_be_collected_under_a_name_of_its_content(tmp_path: Path, storage: type) -> None:
    backend = f"{storage.__module__}.{storage.__name__}"
    storages = {"staticfiles": {"BACKEND": backend}}
    with override_settings(STATIC_ROOT=tmp_path, STORAGES=storages):
        call_command("collectstatic", interactive=False, verbosity=0)
        with override_settings(DEBUG=False):
            found = re.search(r'src="/static/(sse_app/sse\.[0-9a-f]{12}\.js)"', rendered())
    assert found
    collected = (tmp_path / found[1]).read_text()
    (imported,) = re.findall(r'import\("\./(reload[.\w]*\.js)"\)', collected)
    assert (imported == "reload.js") is (storage is not Manifest)
    module = tmp_path / "sse_app" / imported
    assert module.is_file()
    assert collected.replace(imported, "reload.js") == SCRIPT.read_text()


# --- the parser ---

#: Chunks as they arrive, and the blocks that they hold.
STREAMS: list[Any] = [
    (["data: a\n\n"], [{"data": "a"}]),
    (["data:a\ndata:  b\n\n"], [{"data": "a\n b"}]),
    (["data\n\n"], [{"data": ""}]),
    (["data: a\r\n\r\ndata: b\r\rdata: c\n\n"], [{"data": "a"}, {"data": "b"}, {"data": "c"}]),
    (["data: a\r", "\n\r", "\ndata: b\r", "\n", "\n"], [{"data": "a"}, {"data": "b"}]),
    (["data: a\r\r"], [{"data": "a"}]),
    (["da", "ta", ": ", "a", "\n", "\n"], [{"data": "a"}]),
    ([": x\n:\n\ndata: a\n\n"], [{"data": "a"}]),
    (["data: a\n"], []),
    (["event:\ndata: a\n\n"], [{"event": "", "data": "a"}]),
    (["event: e\nid: 1\ndata: a\n\n"], [{"event": "e", "id": "1", "data": "a"}]),
    (["id: 1\0\ndata: a\n\n"], [{"data": "a"}]),
    (["id\ndata: a\n\n"], [{"id": "", "data": "a"}]),
    (["retry: 10\n\nretry: 1x\n\n"], [{"retry": "10"}]),
    (["group: g\ndata: a\nfoo: b\n: \n\n"], [{"group": "g", "data": "a"}]),
    (["Data: a\n data: b\n\n"], []),
    (["data: a:b\u2028c\x0b\x85\n\n"], [{"data": "a:b\u2028c\x0b\x85"}]),
    (["data: {\ndata: \ndata: }\n\n"], [{"data": "{\n\n}"}]),
]
PARSE = """async ([url, chunks]) => {
    const {parser} = await import(url);
    const blocks = [];
    const feed = parser(block => blocks.push(block));
    for (const chunk of chunks) feed(chunk);
    return blocks;
}"""


@pytest.fixture(scope="module")
def parsing(browser: Any, shared_daphne: Daphne) -> Any:
    page = browser.new_page(base_url=shared_daphne.url)
    page.goto(PAGE)
    yield page
    page.close()


@pytest.mark.parametrize(("chunks", "blocks"), STREAMS, ids=[repr(s[0])[:40] for s in STREAMS])
def test_a_stream_is_read_as_the_standard_says(
    parsing: Page, chunks: list[str], blocks: list[Any]
) -> None:
    assert parsing.evaluate(PARSE, ["/static/sse_app/sse.js", chunks]) == blocks


@pytest.mark.parametrize(
    "text",
    first_then_slow(
        ["\ufeffdata: [1]\n\n", "event:\ndata: a\n\n", "data: Grüße 🎉\n\n", "data: a\n\n"]
    ),
)
def test_bytes_are_decoded_as_they_come(tabs: Tabs, text: str) -> None:
    tabs.context.route(
        "**/plain/",
        lambda route: route.fulfill(
            body=text.encode(), headers={"Content-Type": "text/event-stream"}
        ),
    )
    tab = tabs.begin("/plain/")
    tab.page.evaluate("stream.on('message', data => heard.push(data))")
    tab.until_heard(1)
    data = text.strip().partition("data: ")[2]
    assert tab.heard[0] == (json.loads(data) if data.startswith("[") else data)


# --- events ---


def test_listeners_get_the_data_parsed_and_one_that_fails_is_alone(
    site: Daphne, tabs: Tabs
) -> None:
    tab = tabs.open("group=orders")
    tab.page.evaluate(
        """() => {
            window.all = [];
            window.removed = () => heard.push('removed');
            stream.on('n', removed).off('n', removed);
            stream.on('n', () => { throw new Error('on purpose'); });
            stream.on('*', (data, detail) => all.push([data, detail]));
            stream.on('message', data => heard.push(data));
        }"""
    )
    run(
        site,
        "from sse_app import publish\n"
        "publish('orders', 'n', {'a': [1]})\npublish('orders', 'n', 'no {json')\n"
        "publish('orders', 'state', 'mine')\npublish('orders', 'message', 'last')",
    )
    tab.until_heard(3)
    assert tab.heard == [{"a": [1]}, "no {json", "last"]
    assert tab.states == ["open"], "an event named state is no state"
    data, details = zip(*tab.page.evaluate("all"), strict=True)
    assert list(data) == [{"a": [1]}, "no {json", "mine", "last"]
    assert [detail["event"] for detail in details] == ["n", "n", "state", "message"]
    assert {detail["group"] for detail in details} == {"orders"}
    assert len({detail["id"] for detail in details}) == 4
    assert tab.errors == ["on purpose", "on purpose"]
    tab.errors.clear()


# --- sending ---


def test_what_a_page_sends_is_answered_or_refused(tabs: Tabs) -> None:
    tabs.sign_in("ann")
    tab = tabs.open("group=chat.lobby")

    def send(*message: Any) -> Any:
        return tab.page.evaluate(SEND, [*message, None, None][:3])

    assert send("chat.message", {"text": "hello"})["answer"]["id"] > 0
    wrong = send("chat.message", {"text": "x" * 501})
    assert (wrong["name"], wrong["status"]) == ("RequestError", 422)
    assert "500 characters" in wrong["text"]
    assert send("no.such.event")["status"] == 404
    assert send("chat.message", {"text": "x"}, {"group": "secret"})["status"] == 403
    tabs.context.request.get("/test/logout/")
    assert send("chat.message", {"text": "x"})["status"] == 403


def test_a_message_whose_answer_is_lost_is_sent_again_and_handled_once(
    site: Daphne, open_tabs: Callable[[str], Tabs]
) -> None:
    cable = Cable(site.port)
    tabs = open_tabs(cable.url)
    tabs.sign_in("ann")
    tab = tabs.open("group=chat.lobby")
    cable.swallow_answers(2)
    sent = tab.page.evaluate(SEND, ["chat.message", {"text": "once"}, None])
    posts = [line for line in cable.requests if line.startswith(b"POST /events/send/")]
    assert len(posts) == 3
    rows = run(
        site,
        "from project.models import ChatMessage\n"
        "result = list(ChatMessage.objects.values_list('pk', flat=True))",
    )
    assert rows == [sent["answer"]["id"]]
    cable.close()


@pytest.mark.slow
def test_a_server_that_is_too_busy_for_a_message_gets_it_later(tabs: Tabs) -> None:
    tabs.sign_in("ann")
    tab = tabs.open("group=chat.lobby")
    keys: list[str] = []

    def busy(route: Any) -> None:
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) < 3:
            route.fulfill(status=(429, 503)[len(keys) - 1], body="later")
        else:
            route.continue_()

    tabs.context.route("**/events/send/", busy)
    sent = tab.page.evaluate(SEND, ["chat.message", {"text": "later"}, None])
    assert sent["answer"]["id"] > 0
    assert len(keys) == 3
    assert len(set(keys)) == 1


# --- the element ---


def elements(tabs: Tabs, markup: str) -> Page:
    page = tabs.context.new_page()
    page.goto(PAGE)
    page.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", markup)
    return page


@pytest.mark.slow
def test_the_element_lives_as_long_as_its_connection_and_shows_its_state(
    site: Daphne, tabs: Tabs
) -> None:
    page = elements(tabs, '<sse-stream url="/events/?group=orders"></sse-stream><p></p>')
    element = page.locator("sse-stream")
    expect(element).to_have_attribute("state", "open")
    expect(element).to_have_attribute("reason", "")
    page.evaluate("document.querySelector('p').append(document.querySelector('sse-stream'))")
    site.until_streams(1)  # It was only moved.
    page.evaluate(
        "document.querySelector('sse-stream').setAttribute('url', '/events/?group=chat.a')"
    )
    expect(element).to_have_attribute("state", "open")
    groups = (
        "from sse_app.operations.reports import streams\n"
        "result = [list(s.groups) for s in streams()]"
    )
    eventually(lambda: run(site, groups) == [["chat.a"]])
    site.stop()
    expect(element).to_have_attribute("state", "reconnecting")
    expect(element).to_have_attribute("reason", re.compile("shutdown|network"))
    color = "getComputedStyle(document.querySelector('sse-stream')).color"
    page.evaluate(
        """() => {
            const sheet = new CSSStyleSheet();
            sheet.replaceSync('sse-stream[state=reconnecting] { color: rgb(255, 0, 0) }');
            document.adoptedStyleSheets = [sheet];
        }"""
    )
    assert page.evaluate(color) == "rgb(255, 0, 0)"
    site.start()
    expect(element).to_have_attribute("state", "open")
    page.evaluate("document.querySelector('sse-stream').remove()")
    site.until_streams(0)


def test_the_element_begins_when_the_pages_modules_listen(site: Daphne, tabs: Tabs) -> None:
    position = run(site, "from sse_app import cursor\nresult = cursor('orders')")
    publish(site, range(2))

    def late(route: Any) -> None:
        time.sleep(1)
        route.fulfill(
            content_type="text/javascript",
            body="window.heard = []; document.querySelector('sse-stream').stream"
            ".on('n', data => window.heard.push(data));",
        )

    tabs.context.route("**/late.js", late)
    tag = (
        '{% sse_script %}<script type="module" src="/late.js"></script>'
        '{% sse_stream "orders" after="' + position + '" %}'
    )
    page = tabs.context.new_page()
    page.goto(f"/test/page/?tag={quote(tag)}")
    page.wait_for_function("() => window.heard?.length === 2")


@pytest.mark.slow
def test_a_request_of_the_page_names_its_streams(site: Daphne, tabs: Tabs) -> None:
    tab = tabs.open("group=chat.lobby")
    tab.page.evaluate(
        "document.body.insertAdjacentHTML('beforeend',"
        " '<sse-stream url=\"/events/?group=orders\"></sse-stream>')"
    )
    expect(tab.page.locator("sse-stream")).to_have_attribute("state", "open")
    named: dict[str, str] = tab.page.evaluate(
        "import('/static/sse_app/headers.js').then(({headers}) => headers(stream))"
    )
    assert list(named) == ["Sse-Connection"]
    items = [item.partition(";tab=") for item in named["Sse-Connection"].split(", ")]
    ids = tab.page.evaluate("[stream.id, document.querySelector('sse-stream').stream.id]")
    assert [validate_tab(tab) for _, _, tab in items] == ids
    known = run(
        site,
        "from sse_app.operations.reports import streams\nresult = [each.id for each in streams()]",
    )
    for connection, _, _ in items:
        assert connection.partition(":")[0] in known


def test_a_refused_element_is_closed(tabs: Tabs) -> None:
    page = elements(tabs, '<sse-stream url="/events/?group=secret"></sse-stream>')
    expect(page.locator("sse-stream")).to_have_attribute("state", "closed")
    expect(page.locator("sse-stream")).to_have_attribute("reason", "refused: HTTP 403")


def test_after_a_reset_the_element_reloads_its_fragment(site: Daphne, tabs: Tabs) -> None:
    tag = '{% sse_script %}<sse-stream url="/events/?group=orders" fragment="p"></sse-stream>'
    page = tabs.context.new_page()
    page.goto(f"/test/page/?tag={tag}<p>{{% now 'U.u' %}}</p>".replace("%", "%25"))
    expect(page.locator("sse-stream")).to_have_attribute("state", "open")
    publish(site, range(1))
    before = page.locator("p").inner_text()
    page.evaluate("window.same = true")
    run(site, RESET)
    expect(page.locator("p")).not_to_have_text(before)
    assert page.evaluate("window.same"), "the page was not loaded again"


@pytest.mark.slow
def test_after_a_reset_a_page_that_says_nothing_else_is_loaded_again_but_seldom(
    site: Daphne, tabs: Tabs
) -> None:
    """It may come from a cache, and be too old for ever. The page's clock stands still here."""
    tag = '{% sse_script %}<sse-stream url="/events/?group=orders"></sse-stream>'
    page = tabs.context.new_page()
    page.add_init_script(
        """const later = window.setTimeout;
        performance.now = () => 1000;
        window.setTimeout = (call, ms, ...rest) => {
            const isOurs = ms >= 9000 && ms < 10000;
            if (isOurs) sessionStorage.waited = Number(sessionStorage.waited ?? 0) + 1;
            return later(call, isOurs ? 0 : ms, ...rest);
        };"""
    )
    page.goto(f"/test/page/?tag={tag}".replace("%", "%25"))
    for count in ("1", "2"):
        expect(page.locator("sse-stream")).to_have_attribute("state", "open")
        publish(site, range(1))
        with page.expect_event("load"):
            run(site, RESET)
        # The rest of ten seconds, and up to one more, so that not all pages come at once.
        assert page.evaluate("sessionStorage.waited") == count


def test_a_cold_page_gets_what_came_between_rendering_and_loading(site: Daphne, tabs: Tabs) -> None:
    position = run(site, "from sse_app import cursor\nresult = cursor('orders')")
    publish(site, range(1))
    url = f"/events/?group=orders%26last_event_id={position}"
    page = tabs.context.new_page()
    page.add_init_script(
        """customElements.whenDefined('sse-stream').then(() => setTimeout(() => {
            const {stream} = document.querySelector('sse-stream');
            stream.on('n', data => { window.first = data; });
        }))"""
    )
    tag = f'{{% sse_script %}}<sse-stream url="{url}"></sse-stream>'
    page.goto("/test/page/?tag=" + tag.replace("{%", "{%25").replace("%}", "%25}"))
    page.wait_for_function("() => window.first === 0")


# --- the tag ---


def rendered(**context: Any) -> str:
    return Template("{% load sse %}{% sse_script %}").render(Context(context))


def test_the_tag_loads_the_script_with_the_nonce_of_the_policy() -> None:
    assert rendered() == '<script type="module" src="/static/sse_app/sse.js"></script>'
    request = RequestFactory().get("/")
    assert "nonce" not in rendered(request=request)
    request.csp_nonce = "n0<"  # type: ignore[attr-defined]
    assert ' nonce="n0&lt;"' in rendered(request=request)

    class Lazy:
        """As Django's: false until somebody has asked for it."""

        def __bool__(self) -> bool:
            return False

        def __str__(self) -> str:
            return "made"

    assert ' nonce="made"' in rendered(csp_nonce=Lazy(), request=request)


def user_in(text: str) -> str | None:
    found = re.search(r' data-sse="([^"]*)"', text)
    return found and found[1]


def test_the_tags_say_for_whom_the_page_is_and_no_more() -> None:
    request = RequestFactory().get("/")
    digests = []
    for user in (AnonymousUser(), User(pk=1), User(pk=2)):
        request.user = user
        stream = Template('{% load sse %}{% sse_stream "orders" %}')
        element = stream.render(Context({"request": request}))
        digests.append(user_in(rendered(request=request)))
        assert user_in(element) == digests[-1]
    assert digests[0] == ""
    assert re.fullmatch("[0-9a-f]{16}", digests[1] or "")
    assert len(set(digests)) == 3
    with override_settings(SECRET_KEY="another site's"):
        assert user_in(rendered(request=request)) not in digests


def test_a_page_says_the_same_of_its_user_as_the_server_says_of_the_stream(
    shared_daphne: Daphne,
) -> None:
    with httpx.Client(base_url=shared_daphne.url, timeout=PATIENCE) as visitor:
        visitor.post("/test/login/", data={"name": "ann"})
        page = visitor.get("/test/page/", params={"tag": "{% sse_script %}"})
        with visitor.stream("GET", "/events/?group=orders&label=1") as stream:
            opened = next(line for line in stream.iter_lines() if line.startswith("data: "))
    assert user_in(page.text) == json.loads(opened.removeprefix("data: "))["user"] != ""
    assert "Cookie" in page.headers["Vary"]


def test_a_page_for_a_stranger_without_a_session_can_be_cached(shared_daphne: Daphne) -> None:
    page = httpx.get(f"{shared_daphne.url}/test/page/", params={"tag": "{% sse_script %}"})
    assert user_in(page.text) == ""
    assert "Cookie" not in page.headers.get("Vary", "")


def test_an_async_view_that_has_not_loaded_the_user_says_nothing_of_it(
    shared_daphne: Daphne,
) -> None:
    with httpx.Client(base_url=shared_daphne.url, timeout=PATIENCE) as visitor:
        visitor.post("/test/login/", data={"name": "ann"})
        answer = visitor.get("/test/async-page/")
    assert answer.status_code == 200
    assert user_in(answer.text) is None
