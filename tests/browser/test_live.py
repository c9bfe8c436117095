"""`{% live %}` in a real Chromium: what a load keeps, how many loads there are, and failures."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from ..clients import NODE_MODULES
from ..support.pages import RESET
from ..support.servers import Daphne, eventually
from ..support.sleepers import run
from .test_script import SCRIPT, node

LIVE = "from tests.support import live\n"
LIST = (
    '{% live "orders" every=0.05 %}<ul>{% for row in rows %}<li id="r{{ row }}">{{ row }}</li>'
    "{% endfor %}</ul>{% endlive %}"
)
#: Let the topic count a thousand readers more.
CROWD = """
from sse_app.delivery.topics import Topic
Topic.real, Topic.readers = Topic.readers, property(lambda self: 1000)
"""
NO_CROWD = "from sse_app.delivery.topics import Topic\nTopic.readers = Topic.real"
LIVE_SCRIPTS = [SCRIPT.with_name("live.js"), SCRIPT.with_name("idiomorph.js")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Daphne]:
    import shutil

    folder = tmp_path_factory.mktemp("live")
    environment = {"DATABASE_URL": f"sqlite:///{shutil.copy(migrated, folder)}", "REDIS_URL": ""}
    server = Daphne(folder, environment, RETRY=[0.2, 0.3], HEARTBEAT=0.5, STREAM_LIFE=3600)
    yield server.start()
    server.close()


class Pages:
    """The live page, as the server renders it and as browsers show it."""

    def __init__(self, site: Daphne, browser: Browser) -> None:
        self.site = site
        self.context = browser.new_context(base_url=site.url)
        self.set(body=LIST, head="", answer="", held="", began=[], delay=0.0, requests=[])
        self.set(context={"rows": []})

    def set(self, **values: Any) -> None:
        """Set what the server renders, and publish nothing."""
        run(
            self.site,
            LIVE + "\n".join(f"live.{name} = {value!r}" for name, value in values.items()),
        )

    def save(self, rows: list[Any], events: int = 1, **more: Any) -> None:
        """Change the rows and publish, as a view would."""
        run(
            self.site,
            f"{LIVE}live.context |= {more | {'rows': rows}!r}\nfrom sse_app import publish_many\n"
            f"publish_many([('orders', 'order.updated', n) for n in range({events})])",
        )

    @property
    def requests(self) -> list[list[Any]]:
        """The loads of parts."""
        found: list[list[Any]] = run(self.site, LIVE + "result = live.requests")
        return [each for each in found if each[0]]

    def open(self, state: str = "open", prepare: Callable[[Page], object] = id) -> Page:
        page = self.context.new_page()
        page.complaints = []  # type: ignore[attr-defined]
        page.on("pageerror", lambda error: page.complaints.append(str(error)))  # type: ignore[attr-defined]
        prepare(page)
        page.goto("/test/live/")
        for part in page.locator("sse-live").all():
            expect(part).to_have_attribute("state", state)
        return page


@pytest.fixture
def pages(site: Daphne, browser: Browser) -> Iterator[Pages]:
    made = Pages(site, browser)
    yield made
    complaints = [text for page in made.context.pages for text in page.complaints]  # type: ignore[attr-defined]
    made.context.close()
    assert complaints == []


def rows_of(page: Page) -> list[str]:
    return page.locator("sse-live li").all_inner_texts()


@pytest.mark.npm
def test_the_two_scripts_have_at_most_6_kib_minified_and_compressed() -> None:
    sizes = []
    for script in LIVE_SCRIPTS:
        done = node("esbuild", "--minify", "--format=esm", str(script))
        assert done.returncode == 0, done.stderr
        sizes.append(len(gzip.compress(done.stdout.encode(), 9)))
    assert sum(sizes) <= 6 * 1024, sizes


@pytest.mark.npm
def test_the_vendored_script_is_the_package_s() -> None:
    package = NODE_MODULES / "idiomorph"
    vendored = LIVE_SCRIPTS[1].read_text().splitlines()
    assert vendored[1:-1] == (package / "dist" / "idiomorph.min.js").read_text().splitlines()
    assert vendored[-1] == "export { Idiomorph };"
    folder = LIVE_SCRIPTS[1].parent
    assert (folder / "LICENSE-idiomorph.txt").read_text() == (package / "LICENSE").read_text()


FORM = (
    LIST.removesuffix("{% endlive %}")
    + '<form><input id="name" name="name"><input name="other" value="{{ rows|length }}">'
    '<textarea name="text">{{ rows|length }}</textarea><input type="checkbox" name="yes">'
    "<select name=kind><option>a<option>b</select></form>"
    "<details><summary>More</summary>{{ rows|length }}</details>"
    '<div id="long">{% for n in lines %}<p>{{ n }}</p>{% endfor %}</div>'
    "{% endlive %}"
)


def test_typing_loses_nothing_while_the_list_is_loaded_again_twenty_times(pages: Pages) -> None:
    pages.set(body=FORM, context={"rows": [], "lines": list(range(50))})
    page = pages.open()
    page.fill("[name=other]", "mine")
    page.fill("textarea", "my text")
    page.check("[name=yes]")
    page.select_option("select", "b")
    page.locator("details").evaluate("each => { each.open = true; }")
    page.locator("#long").evaluate(
        "each => { each.style = 'height: 50px; overflow: scroll'; each.scrollTop = 200; }"
    )
    page.focus("#name")
    page.evaluate("window.field = document.activeElement")
    for n in range(1, 21):
        page.keyboard.type(chr(96 + n))
        pages.save(list(range(n, 0, -1)))
        page.keyboard.type(chr(64 + n))
        expect(page.locator("sse-live li")).to_have_count(n)
    typed = "".join(chr(96 + n) + chr(64 + n) for n in range(1, 21))
    assert page.input_value("#name") == typed
    assert page.evaluate("document.activeElement === window.field && field.isConnected")
    page.keyboard.press("Shift+Home")
    pages.save([21])
    expect(page.locator("sse-live li")).to_have_count(1)
    assert page.evaluate("[field.selectionStart, field.selectionEnd]") == [0, 40]
    assert page.input_value("[name=other]") == "mine"
    assert page.input_value("textarea") == "my text"
    assert page.is_checked("[name=yes]")
    assert page.input_value("select") == "b"
    assert page.locator("details").get_attribute("open") is not None
    assert page.locator("#long").evaluate("each => each.scrollTop") == 200


def test_a_burst_of_a_thousand_events_is_at_most_three_loads(pages: Pages) -> None:
    pages.set(body=LIST.replace("every=0.05", ""))
    page = pages.open()
    pages.save(["a"], events=1000)
    expect(page.locator("sse-live li")).to_have_text(["a"])
    pages.save(["b"])
    expect(page.locator("sse-live li")).to_have_text(["b"])
    assert 1 <= len(pages.requests) <= 4  # The last one is of the event after the burst.


def test_without_an_event_nothing_is_loaded(pages: Pages) -> None:
    page = pages.open(prepare=lambda page: page.clock.install())
    pages.save(["a"])
    expect(page.locator("sse-live li")).to_have_text(["a"])
    before = len(pages.requests)
    for _ in range(3):
        page.clock.run_for(1000)
        page.evaluate("fetch('/test/whoami/').then(answer => answer.text())")
    assert len(pages.requests) == before


@pytest.mark.slow
def test_interleaved_changes_and_loads_end_with_the_page_as_it_is_rendered_now(
    pages: Pages,
) -> None:
    chance = random.Random(20)
    page = pages.open()
    rows: list[int] = []
    for n in range(100):
        if rows and chance.random() < 0.4:
            rows.remove(chance.choice(rows))
        else:
            rows.insert(chance.randrange(len(rows) + 1), n)
        if chance.random() < 0.3:
            chance.shuffle(rows)
        pages.set(delay=chance.choice([0, 0, 0.01, 0.05]))
        pages.save(rows)
    expect(page.locator("sse-live li")).to_have_text([str(row) for row in rows])
    content = "document.querySelector('sse-live').innerHTML"
    assert page.evaluate(content) == pages.open().evaluate(content)


@pytest.mark.slow
def test_a_load_that_began_before_an_event_is_followed_by_another(pages: Pages) -> None:
    pages.set(delay=0.5)
    page = pages.open()
    pages.save(["a"])
    eventually(lambda: run(pages.site, LIVE + "result = len(live.requests)"))
    pages.save(["b"])
    expect(page.locator("sse-live li")).to_have_text(["b"])


@pytest.mark.slow
def test_what_changes_between_the_rendering_and_the_stream_is_shown(pages: Pages) -> None:
    """The tag reads the log before the rows, so the stream begins with the change."""
    pages.set(delay=0.5)
    page = pages.context.new_page()
    page.complaints = []  # type: ignore[attr-defined]
    page.route("**/sse.js", lambda route: (pages.save(["late"]), route.continue_()))
    page.goto("/test/live/")
    expect(page.locator("sse-live li")).to_have_text(["late"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "reason"),
    [("login", "redirected"), ("403", "HTTP 403"), ("500", "HTTP 500"), ("a portal", "missing")],
)
def test_an_answer_without_the_part_leaves_the_content(
    pages: Pages, answer: str, reason: str
) -> None:
    page = pages.open()
    pages.save(["a"])
    expect(page.locator("sse-live li")).to_have_text(["a"])
    pages.set(answer=answer)
    pages.save(["b"])
    part = page.locator("sse-live")
    expect(part).to_have_attribute("state", "stale")
    expect(part).to_have_attribute("reason", reason)
    assert rows_of(page) == ["a"]
    pages.set(answer="")
    expect(page.locator("sse-live li")).to_have_text(["b"], timeout=20_000)
    expect(part).to_have_attribute("state", "open")


@pytest.mark.slow
def test_the_page_survives_a_restart_and_a_reset(site: Daphne, pages: Pages) -> None:
    page = pages.open()
    site.stop()
    expect(page.locator("sse-live")).to_have_attribute("state", "reconnecting")
    site.start()
    pages.set(body=LIST, context={"rows": ["after"]})
    expect(page.locator("sse-live")).to_have_attribute("state", "open")
    run(site, "from sse_app import publish\npublish('orders', 'n', 1)")
    expect(page.locator("sse-live li")).to_have_text(["after"])
    pages.set(context={"rows": ["silently"]})
    run(site, RESET)
    expect(page.locator("sse-live li")).to_have_text(["silently"])


@pytest.mark.slow
def test_a_page_from_the_back_forward_cache_shows_what_happened_meanwhile(pages: Pages) -> None:
    page = pages.open()
    page.evaluate("window.same = true")
    page.goto("/test/whoami/")
    pages.save(["meanwhile"])
    page.go_back()
    expect(page.locator("sse-live li")).to_have_text(["meanwhile"])


def test_an_answer_that_is_not_modified_changes_nothing(pages: Pages) -> None:
    pages.set(context={"rows": ["a"], "etag": "1"})
    page = pages.open()
    pages.save(["a"])
    eventually(lambda: [status for _, status in pages.requests] == [200])
    page.evaluate(
        "window.states = []; const part = document.querySelector('sse-live');"
        "new MutationObserver(() => states.push(part.getAttribute('state')))"
        ".observe(part, {attributes: true})"
    )
    pages.save(["a"])
    eventually(lambda: [status for _, status in pages.requests] == [200, 304])
    pages.save(["b"], etag="2")
    expect(page.locator("sse-live li")).to_have_text(["b"])
    assert set(page.evaluate("states")) == {"open"}


@pytest.mark.slow
def test_a_hidden_page_waits_until_it_is_shown(pages: Pages) -> None:
    hidden = "Object.defineProperty(document, 'hidden', {get: () => window.away ?? false})"
    page = pages.open(prepare=lambda page: page.add_init_script(hidden))
    other = pages.open()
    page.evaluate("window.away = true")
    pages.save(["a"])
    expect(other.locator("sse-live li")).to_have_text(["a"])
    assert rows_of(page) == []
    page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("sse-live li")).to_have_text(["a"])


@pytest.mark.slow
def test_the_pages_of_many_streams_load_one_by_one(pages: Pages) -> None:
    """The time is random below ten milliseconds for each stream; `Math.random()` is fixed here."""
    fixed = """Math.random = () => 0.5;
        window.waits = 0;
        const later = window.setTimeout;
        window.setTimeout = (call, ms, ...rest) => {
            const isOurs = ms >= 5000 && ms < 5100;
            if (isOurs) window.waits++;
            return later(call, isOurs ? 0 : ms, ...rest);
        };"""
    page = pages.open(prepare=lambda page: page.add_init_script(fixed))
    run(pages.site, CROWD)
    try:
        pages.save(["a"])
        expect(page.locator("sse-live li")).to_have_text(["a"])
    finally:
        run(pages.site, NO_CROWD)
    assert page.evaluate("waits") == 1


NESTED = (
    '{% live "orders" every=0.05 %}<h1>{{ rows|length }}</h1>'
    '{% live "order.{pk}" pk=5 every=0.05 %}<p>{{ inner }}</p>{% endlive %}{% endlive %}'
)


#: Notes what the nested part shows, and the state of its stream.
WATCH = """() => {
    window.kept = document.querySelector('sse-live sse-live');
    window.seen = [];
    const note = () => seen.push(`${kept.innerText.trim()} ${kept.getAttribute('state')}`);
    new MutationObserver(note).observe(
        document.body, {childList: true, subtree: true, characterData: true, attributes: true});
}"""


def test_nested_parts_are_loaded_alone_and_never_get_older(pages: Pages) -> None:
    pages.set(body=NESTED, context={"rows": [], "inner": "old"})
    page = pages.open()
    inner = page.locator("sse-live sse-live")
    expect(inner).to_have_attribute("for", "order.5")
    pages.set(held="live-orders", began=[])
    try:
        pages.save(["a"])
        eventually(lambda: run(pages.site, LIVE + "result = live.began") == ["live-orders"])
        run(
            pages.site,
            LIVE + "live.context['inner'] = 'new'\nfrom sse_app import publish\n"
            "publish('order.5', 'order.updated', 1)",
        )
        expect(inner.locator("p")).to_have_text("new")
        page.evaluate(WATCH)
        url = inner.get_attribute("url")
    finally:
        pages.set(held="")
    expect(page.locator("h1")).to_have_text("1")
    # The part in the answer of the outer load has another URL, with a later position.
    pages.save(["a", "b"], inner="newer")
    expect(page.locator("h1")).to_have_text("2")
    expect(inner.locator("p")).to_have_text("newer")
    assert set(page.evaluate("seen")) <= {"new open", "newer open"}
    assert page.evaluate("kept.isConnected")
    assert inner.get_attribute("url") == url, "another URL would be another connection"


@pytest.mark.slow
def test_the_whole_page_follows_and_its_title_too(pages: Pages) -> None:
    pages.set(
        head='{% live_page "orders" every=0.05 %}',
        body="<main>{% for row in rows %}<p>{{ row }}</p>{% endfor %}</main>",
    )
    page = pages.open()
    expect(page.locator("html > sse-live")).to_have_attribute("state", "open")
    pages.save(["a", "b"])
    expect(page.locator("main p")).to_have_text(["a", "b"])
    expect(page).to_have_title("2")


SHOWN = (
    '{% live "orders" events="order.updated" highlight="new" announce="" %}'
    '<p id="same">same</p>{% for row in rows %}'
    '<p id="r{{ row }}">{{ row }}</p>{% endfor %}{% endlive %}'
)


@pytest.mark.slow
def test_what_changed_is_highlighted_and_announced(pages: Pages) -> None:
    pages.set(body=SHOWN)
    page = pages.open()
    run(pages.site, "from sse_app import publish\npublish('orders', 'other', 1)")
    pages.save(["first"])
    expect(page.locator("sse-live .new")).to_have_text(["first"])
    expect(page.get_by_role("status")).to_have_text("first")
    expect(page.locator("sse-live .new")).to_have_count(0)
    page.emulate_media(reduced_motion="reduce")
    pages.save(["first", "second"])
    expect(page.get_by_role("status")).to_have_text("second")
    expect(page.locator("sse-live .new")).to_have_count(0)


VENDOR = "/static/project/vendor"
HTMX = (
    f'<script src="{VENDOR}/htmx-2.0.11.min.js" defer></script>'
    '{% live "orders" every=0.05 %}{% for row in rows %}<button id="b{{ row }}"'
    ' hx-get="/test/whoami/" hx-target="#out">{{ row }}</button>{% endfor %}{% endlive %}'
    '<p id="out"></p>'
)


@pytest.mark.slow
def test_htmx_knows_what_a_refresh_brings(pages: Pages) -> None:
    pages.set(body=HTMX)
    page = pages.open()
    pages.save(["a"])
    page.locator("#ba").click()
    expect(page.locator("#out")).to_contain_text("pk")


ALPINE = """<script src="/alpine.js" defer></script>
{% live "orders" every=0.05 %}<div x-data="{ n: 1, list: ['x', 'y'] }">
<button @click="n++">+</button><b x-text="n"></b><i x-show="n > 1">shown</i>
<template x-for="each in list"><u x-text="each"></u></template>
<template x-if="n > 1"><s>more</s></template>
{% for row in rows %}<p x-data="{ t: 'hi' }"><em x-text="t"></em>{{ row }}</p>{% endfor %}
</div>{% endlive %}"""


@pytest.mark.slow
@pytest.mark.npm
def test_alpine_keeps_its_state_and_knows_what_a_refresh_brings(pages: Pages) -> None:
    alpine = NODE_MODULES / "@alpinejs" / "csp" / "dist" / "cdn.min.js"
    kind = "text/javascript"
    pages.set(body=ALPINE)
    page = pages.open(
        prepare=lambda page: page.route(
            "**/alpine.js", lambda route: route.fulfill(path=alpine, content_type=kind)
        )
    )
    expect(page.locator("b")).to_have_text("1")
    pages.save(["a"])
    expect(page.locator("p em")).to_have_text(["hi"])
    expect(page.locator("i")).to_be_hidden()
    expect(page.locator("b")).to_have_text("1")
    expect(page.locator("u")).to_have_text(["x", "y"])
    page.locator("button").click()
    pages.save(["a", "b"])
    expect(page.locator("p em")).to_have_text(["hi", "hi"])
    expect(page.locator("b")).to_have_text("2")
    expect(page.locator("i")).to_be_visible()
    expect(page.locator("s")).to_have_text("more")


@pytest.mark.slow
def test_turbo_visits_take_the_live_page_with_them(pages: Pages) -> None:
    pages.set(
        head=f'<script type="module" src="{VENDOR}/turbo-8.0.23.js"></script>'
        '{% live_page "orders" every=0.05 %}',
        body='<a href="/test/live/?second">go</a>{% for row in rows %}<p>{{ row }}</p>{% endfor %}',
    )
    page = pages.open()
    expect(page.locator("html > sse-live")).to_have_attribute("state", "open")
    page.evaluate("window.same = true")
    page.locator("a").click()
    page.wait_for_url("**/?second")
    pages.save(["a"])
    expect(page.locator("p")).to_have_text(["a"])
    assert page.evaluate("window.same")
