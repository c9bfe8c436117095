"""What the page's script asks for by itself, where something else than the app answers."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from ..support.pages import RESET, SEND
from ..support.servers import Daphne
from ..support.sleepers import run
from ..support.tabs import Tabs, open_tabs, publish

pytestmark = pytest.mark.slow

__all__ = ["open_tabs"]


@pytest.fixture
def site(make_daphne: Callable[..., Daphne]) -> Daphne:
    return make_daphne(RETRY=[0.2, 0.3])


@pytest.fixture
def tabs(site: Daphne, open_tabs: Callable[..., Tabs]) -> Tabs:
    # The demo's policy would keep the page from other origins.
    return open_tabs(site.url, bypass_csp=True)


class Stranger(BaseHTTPRequestHandler):
    """A server of another origin that permits everything by CORS, and answers all POSTs."""

    posts: ClassVar[list[tuple[str, dict[str, str]]]] = []

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Access-Control-Allow-Origin", self.headers.get("Origin", "*"))
        self.send_header("Access-Control-Allow-Credentials", "true")
        self.send_header(
            "Access-Control-Allow-Headers", "content-type, idempotency-key, x-csrftoken"
        )
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_OPTIONS(self) -> None:
        self._answer(200, "text/plain", b"")

    def do_GET(self) -> None:
        # Once it is asked for a stream, the grant is over, so that the page asks for another one.
        body = b'event: sse.close\ndata: {"reason": "expired"}\n\n'
        self._answer(200, "text/event-stream", body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        named = {name.lower(): value for name, value in self.headers.items()}
        self.posts.append((self.path, named))
        answer = (200, b'"mine"') if self.path == "/events/send/" else (403, b"{}")
        self._answer(answer[0], "application/json", answer[1])

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The URL of a stream on another origin."""
    Stranger.posts.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/events/"
        server.shutdown()


def test_the_token_and_the_cookies_are_for_the_own_origin_only(
    site: Daphne, tabs: Tabs, elsewhere: str
) -> None:
    tabs.sign_in("ann")
    tabs.context.request.get("/login/")
    grant = tabs.url_of("team.red").partition("?")[2]
    tab = tabs.begin(f"{elsewhere}?{grant}")
    tab.page.evaluate("() => { stream.options.csrf = () => 'a secret'; }")
    assert tab.page.evaluate(SEND, ["chat.message", None, None])["answer"] == "mine"
    tab.until("stream.state === 'closed'")
    assert tab.states[-1] == "closed expired"
    assert {path for path, _ in Stranger.posts} == {"/events/send/", "/events/renew/"}
    for _, headers in Stranger.posts:
        assert "x-csrftoken" not in headers
        assert "cookie" not in headers


#: What stands before the app, as what its views answer.
IN_BETWEEN = {
    "a login page": "redirect('/login/?next=/')",
    "a redirect that keeps the body": "HttpResponse(status=307, headers={'Location': ELSEWHERE})",
    "a portal": "HttpResponse('<p>Welcome to the hotel')",
    "a proxy": "HttpResponse('<p>Not found', status=404)",
}


def put_between(site: Daphne, how: str, name: str, elsewhere: str = "") -> None:
    run(
        site,
        "from functools import wraps\nfrom django.http import HttpResponse\n"
        "from django.shortcuts import redirect\nfrom sse_app.urls import urlpatterns\n"
        f"ELSEWHERE = {elsewhere!r}\n"
        f"(route,) = [route for route in urlpatterns if route.name == {name!r}]\n"
        f"route.callback = wraps(route.callback)(lambda request: {IN_BETWEEN[how]})",
    )


@pytest.mark.parametrize(
    ("how", "status", "text"),
    [
        ("a login page", 302, "HTTP 302"),
        ("a redirect that keeps the body", 302, "HTTP 302"),
        ("a portal", 200, "HTTP 200 text/html; charset=utf-8"),
        ("a proxy", 404, "HTTP 404 text/html; charset=utf-8"),
    ],
)
def test_a_message_has_no_answer_but_the_apps(
    site: Daphne, tabs: Tabs, elsewhere: str, how: str, status: int, text: str
) -> None:
    put_between(site, how, "send", f"{elsewhere}send/")
    tab = tabs.open("group=orders")
    told = tab.page.evaluate(SEND, ["chat.message", {"text": "x"}, None])
    assert (told["name"], told["status"], told["text"].strip()) == ("RequestError", status, text)
    assert Stranger.posts == [], "the message and the token went on to somewhere else"


@pytest.mark.parametrize("how", IN_BETWEEN)
def test_a_grant_is_renewed_by_the_app_and_by_nothing_else(
    make_daphne: Callable[..., Daphne], open_tabs: Callable[[str], Tabs], how: str
) -> None:
    site = make_daphne(RETRY=[0.2, 0.3], GRANT_AGE=1, MAY_LISTEN="tests.policies.at_times")
    tabs = open_tabs(site.url)
    put_between(site, how, "renew")
    tab = tabs.begin(tabs.url_of("team.red"))
    tab.until("stream.state === 'closed'")
    assert tab.states[-1] == "closed expired"


def test_a_login_page_is_no_part_of_the_page_that_is_loaded_again(site: Daphne, tabs: Tabs) -> None:
    tag = '{% sse_script %}<sse-stream url="/events/?group=orders" fragment="p"></sse-stream>'
    page = tabs.context.new_page()
    page.goto(f"/test/page/?tag={quote(tag + '<p>board</p>')}")
    expect(page.locator("sse-stream")).to_have_attribute("state", "open")
    run(
        site,
        "from functools import wraps\nfrom django.shortcuts import redirect\n"
        "from tests.urls import urlpatterns\n"
        "(route,) = [route for route in urlpatterns if str(route.pattern) == 'test/page/']\n"
        "view = route.callback\n"
        "route.callback = wraps(view)(lambda request: redirect('/test/page/?tag=<p>Log in</p>')\n"
        "    if 'p>board' in request.GET['tag'] else view(request))",
    )
    publish(site, range(1))
    shown: list[str] = page.evaluate(
        "() => { window.shown = []; new MutationObserver(() => shown.push(document.body.innerText))"
        ".observe(document.body, {childList: true, subtree: true}); return shown; }"
    )
    page.on("framenavigated", lambda frame: shown.append(frame.url))
    run(site, RESET)
    # The browser follows by itself, and the visitor sees where it leads.
    page.wait_for_url(re.compile("Log"))
    assert [json.dumps(text) for text in shown] == [json.dumps(page.url)]
