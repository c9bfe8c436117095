"""The server heard by twelve clients of other people; `docs/delivery/clients.md` is what comes of
it.

All listen at the same time while one story is told; then each is asked what it has seen.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from ..clients import CLIENTS, EDGES, PRESENT, Client
from ..clients.cutter import Cutter
from ..clients.listeners import Audience, Listener, Seen
from ..support.patience import PATIENCE
from ..support.proxies import OwnPort
from ..support.servers import Daphne, eventually
from ..support.sleepers import run
from ..support.streams import END, end_stream

GROUP = "team.clients"
LARGE = "ä漢🚀 " * 6000  # 60,000 bytes
FOREIGN = "Grüße, Ω, 漢字, 🚀𝄞, \u2028\u2029\x85\x0b\x0c\x1c and \ufeff"
DATA = [
    ("message", "plain"),
    ("order.updated", '{"pk":1}'),
    ("order.updated", "one\ntwo\n\nfour"),
    ("message", FOREIGN),
    ("order.updated", LARGE),
]

pytestmark = [pytest.mark.npm, pytest.mark.matrix]
each_client = pytest.mark.parametrize(
    "client",
    [pytest.param(one, marks=[pytest.mark.curl] * (one.driver == "curl")) for one in CLIENTS],
    ids=lambda client: client.name,
)


class Story:
    """What is published in which section, and who has seen what of it."""

    def __init__(self, server: OwnPort, audience: Audience) -> None:
        self.server = server
        self.audience = audience
        self.sections: dict[str, list[tuple[str, str]]] = {}
        #: How many streams each client had opened when a section ended.
        self.opened: dict[str, dict[str, int]] = {}

    def tell(self, *events: tuple[str, str]) -> None:
        for name, data in events:
            self.server.publish(GROUP, name, data)

    def end(self, section: str, *events: tuple[str, str], within: float = 20.0) -> None:
        """Note what was published in a section, and wait until all know that it is over."""
        self.sections[section] = list(events)
        self.tell(("mark", section))
        self.audience.settle(lambda listener: section in marks(listener), within)
        self.opened[section] = {
            name: listener.count("sse.open") for name, listener in self.audience.listeners.items()
        }

    def told(self, client: Client, section: str) -> list[Seen]:
        """What a client has seen of a section."""
        names = [*self.sections]
        before = names.index(section)
        listener = self.audience.listeners[client.name]
        shown = listener.shown()
        places = [place for place, one in enumerate(shown) if one.event == "mark"]
        assert marks(listener)[: before + 1] == names[: before + 1], listener.complaint()
        return shown[places[before - 1] + 1 if before else 0 : places[before]]

    def of(self, client: Client, event: str) -> list[dict[str, Any]]:
        """The data of the control events of one name."""
        seen = self.audience.listeners[client.name].look()
        return [json.loads(one.data) for one in seen if one.event == event]


def marks(listener: Listener) -> list[str]:
    return [one.data for one in listener.look() if one.event == "mark"]


def pairs(seen: list[Seen]) -> list[tuple[str, str]]:
    return [(one.event, one.data) for one in seen]


def numbered(start: int, count: int) -> list[tuple[str, str]]:
    return [("order.updated", str(n)) for n in range(start, start + count)]


def start_server(folder: Path, migrated: Path, **options: Any) -> OwnPort:
    environment = {"DATABASE_URL": f"sqlite:///{shutil.copy(migrated, folder)}", "REDIS_URL": ""}
    return OwnPort(folder, environment, **options).start()


def listen_all(audience: Audience, server: OwnPort, base: str = "") -> None:
    """Let all listen to a group that is not public: with a token, or as a page that is signed.

    `base` is where they find the server, if it isn't its own address.
    """
    token = server.manage("sse_token", "create", "clients", "--listen", GROUP).split()[-1]
    tag = '{% sse_url "team.clients" %}'
    grant = httpx.get(f"{server.url}/test/page/", params={"tag": tag}, timeout=PATIENCE).text
    for client in PRESENT:
        path = f"/events/?group={GROUP}" if client.sends_headers else grant
        headers = {"Authorization": f"Bearer {token}"} if client.sends_headers else {}
        url = f"{base or server.url}{path}&client={client.key}"
        audience.listen(client, base or server.url, url, headers)
    audience.settle(lambda listener: listener.count("sse.open") > 0)


@pytest.fixture(scope="module")
def story(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path, browser: Browser
) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    with ExitStack() as stack:
        server = start_server(folder, migrated, HEARTBEAT=0.2, RETRY=[0.2, 0.3])
        stack.callback(server.close)
        story = Story(server, Audience(folder, browser, stack))
        listen_all(story.audience, server)
        tell_of_data(story)
        tell_of_ends(story)
        yield story


def tell_of_data(story: Story) -> None:
    story.tell(*DATA)
    story.end("data", *DATA)
    edges = [("edge", data) for data in EDGES.values()]
    story.tell(*edges)
    story.end("edges", *edges)
    story.server.publish(GROUP, "order.updated", "passing", how="publish-passing")
    story.end("passing", ("order.updated", "passing"))
    wait_for_heartbeats(story.server, 20)
    story.end("idle")


def tell_of_ends(story: Story) -> None:
    server = story.server
    run(server, END.format(reason="age"))
    story.tell(*numbered(0, 3))
    story.end("closed", *numbered(0, 3))
    server.stop(signal.SIGKILL)
    numbers = "for n in range(3, 6): publish('team.clients', 'order.updated', str(n))"
    server.shell(f"from sse_app import publish\n{numbers}")
    server.start()
    story.tell(*numbered(6, 3))
    story.end("killed", *numbered(3, 6), within=40)
    server.stop()
    server.start()
    story.tell(*numbered(9, 3))
    # The farewell spreads them over ten seconds, and some take twice as long as they are told.
    story.end("restarted", *numbered(9, 3), within=60)
    server.manage("sse_new_epoch", GROUP)
    story.audience.settle(lambda listener: listener.count("sse.reset") > 0)
    story.end("replaced")


def wait_for_heartbeats(server: OwnPort, count: int) -> None:
    with httpx.stream("GET", f"{server.url}/events/?group=orders", timeout=PATIENCE) as response:
        seen = 0
        for chunk in response.iter_raw():
            seen += chunk.startswith(b":")
            if seen == count:
                return


@each_client
def test_it_sees_names_many_lines_large_and_foreign_data(client: Client, story: Story) -> None:
    assert pairs(story.told(client, "data")) == DATA


@each_client
def test_it_sees_an_id_with_each_event(client: Client, story: Story) -> None:
    ids = [one.id for one in story.told(client, "data")]
    assert all(id.startswith("1.") for id in ids)
    assert len(set(ids)) == len(DATA)


@each_client
def test_what_is_easily_spoilt_arrives_but_for_the_limits_of_the_client(
    client: Client, story: Story
) -> None:
    expected = {kind: client.spoils.get(kind, data) for kind, data in EDGES.items()}
    assert pairs(story.told(client, "edges")) == [("edge", data) for data in expected.values()]


@each_client
def test_an_event_that_is_not_logged_has_no_id_or_the_last_one(
    client: Client, story: Story
) -> None:
    (seen,) = story.told(client, "passing")
    assert (seen.event, seen.data) == ("order.updated", "passing")
    shown = story.audience.listeners[client.name].shown()
    before = next(one.id for one in shown if (one.event, one.data) == ("mark", "edges"))
    assert seen.id == (before if client.keeps_id else "")


@each_client
def test_it_stays_while_there_are_only_heartbeats_and_sees_nothing(
    client: Client, story: Story
) -> None:
    assert story.told(client, "idle") == []
    assert story.opened["idle"][client.name] == 1


@each_client
@pytest.mark.parametrize("section", ["closed", "killed", "restarted"])
def test_it_comes_back_and_sees_each_event_once_and_in_order(
    client: Client, section: str, story: Story
) -> None:
    assert pairs(story.told(client, section)) == story.sections[section]
    before = [*story.sections][[*story.sections].index(section) - 1]
    assert story.opened[section][client.name] > story.opened[before][client.name]


@each_client
def test_it_resumed_whenever_it_came_back(client: Client, story: Story) -> None:
    first, *later = story.of(client, "sse.open")
    assert first["recovered"] is False
    assert [opened["recovered"] for opened in later] == [True] * len(later)
    assert len(later) >= 3


@each_client
def test_it_is_told_why_a_stream_ended_and_that_a_log_was_replaced(
    client: Client, story: Story
) -> None:
    assert [told["reason"] for told in story.of(client, "sse.close")] == ["age", "shutdown"]
    assert [told["reason"] for told in story.of(client, "sse.reset")] == ["epoch"]
    assert story.told(client, "replaced") == []


@pytest.fixture(scope="module")
def cut(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path, browser: Browser
) -> Iterator[tuple[Cutter, Story]]:
    """All clients lose their connection in the middle of a large event."""
    folder = tmp_path_factory.mktemp("cut")
    with ExitStack() as stack:
        server = start_server(folder, migrated, RETRY=[0.2, 0.3])
        stack.callback(server.close)
        cutter = stack.enter_context(Cutter(server.own_port, LARGE[:20].encode(), 20_000))
        story = Story(server, Audience(folder, browser, stack))
        listen_all(story.audience, server, cutter.url)
        events = [*numbered(0, 2), ("order.updated", LARGE), *numbered(2, 2)]
        story.tell(*events)
        story.end("cut", *events)
        yield cutter, story


@each_client
def test_a_connection_cut_within_an_event_loses_nothing(
    client: Client, cut: tuple[Cutter, Story]
) -> None:
    cutter, story = cut
    assert client.key in cutter.cut
    assert pairs(story.told(client, "cut")) == story.sections["cut"]
    assert story.opened["cut"][client.name] == 2


class Refusals:
    """How often each client asked for a stream that it did not get, from the access log."""

    def __init__(self, log: Path, clients: Sequence[Client]) -> None:
        self._log = log
        self._clients = clients
        self._text = ""

    def asked(self, client: Client, group: str) -> int:
        """How often a client had asked when the clients that ask again at once had done so."""
        return self._text.count(f'"GET /events/?group={group}&client={client.key}"')

    def enough(self) -> bool:
        """Whether all have asked, and those that are known to ask again at once three times."""
        self._text = self._log.read_text()
        return all(
            self.asked(one, "secret") >= (3 if one.insists else 1)
            and self.asked(one, "orders") >= (1 if one.hears_retry else 3)
            for one in self._clients
        )


@pytest.fixture(scope="module")
def refused(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path, browser: Browser
) -> Iterator[tuple[Refusals, Audience, Audience]]:
    """All clients ask for what nobody gets, and for a stream of a server that has none left."""
    folder = tmp_path_factory.mktemp("refused")
    log = folder / "access.log"
    with ExitStack() as stack:
        audiences = []
        for group, most in (("secret", None), ("orders", 1)):
            (folder / group).mkdir()
            options: dict[str, Any] = {"access_log": log, "STREAMS_PER_PROCESS": most}
            server = start_server(folder / group, migrated, **options)
            stack.callback(server.close)
            audience = Audience(folder / group, browser, stack)
            stack.enter_context(httpx.stream("GET", f"{server.url}/events/?group=orders"))
            for client in PRESENT:
                url = f"{server.url}/events/?group={group}&client={client.key}"
                audience.listen(client, server.url, url, {})
            audiences.append(audience)
        forbidden, busy = audiences
        busy.settle(lambda listener: listener.count("sse.busy") > 0)
        refusals = Refusals(log, PRESENT)
        eventually(refusals.enough)
        yield refusals, forbidden, busy


@each_client
def test_where_it_may_not_listen_it_hears_nothing_and_most_ask_once(
    client: Client, refused: tuple[Refusals, Audience, Audience]
) -> None:
    refusals, forbidden, _ = refused
    assert forbidden.listeners[client.name].shown() == []
    assert (refusals.asked(client, "secret") > 1) is client.insists


@each_client
def test_a_busy_server_is_no_message_and_most_stay_away_as_long_as_they_are_told(
    client: Client, refused: tuple[Refusals, Audience, Audience]
) -> None:
    refusals, _, busy = refused
    seen = busy.listeners[client.name].look()
    assert {one.event for one in seen} == {"sse.busy"}
    assert json.loads(seen[0].data) == {"reason": "process"}
    # A refusal's shortest `retry:` is 15 seconds; who does not hear it asks three times meanwhile.
    assert (refusals.asked(client, "orders") == 1) is client.hears_retry


FETCH = """async url => {
    const {fetchEventSource} = await import('@microsoft/fetch-event-source');
    window.over = false;
    fetchEventSource(url, {}).then(() => { window.over = true; });
}"""
HIDE = """hidden => {
    Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
    document.dispatchEvent(new Event('visibilitychange'));
}"""


def test_fetch_event_source_leaves_when_hidden_and_takes_the_end_of_the_response_for_the_end(
    browser: Browser, make_daphne: Callable[..., Daphne]
) -> None:
    daphne = make_daphne()
    page = browser.new_page(bypass_csp=True)
    page.goto(f"{daphne.url}/test/clients/page.html")
    page.evaluate(FETCH, f"{daphne.url}/events/?group=chat.limits")
    daphne.until_streams(1)
    page.evaluate(HIDE, True)
    daphne.until_streams(0)
    page.evaluate(HIDE, False)
    end_stream(daphne)
    page.wait_for_function("() => window.over")
    page.close()
