"""No text forges anything on a stream, whichever way it comes in: one event, and it goes on."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest
import redis

from sse_app.conf import site_tag
from sse_app.protocol.groups import layer_group

from ..support.patience import PATIENCE
from ..support.servers import Daphne, StreamReader

GROUP = "chat.nasty"
LOG = "sse_app.eventlog.RedisEventLog"
ON_LAYER = f"asgi__group__{layer_group(GROUP, site_tag())}"
NASTY = (
    "a\r\nid: 99\r\n\r\nevent: forged\r\ndata: x\r\n\r\n",
    "a\n\nevent: sse.close\ndata: {}\n\n",
    "a\r\rretry: 1\r\r",
    "\nid: 1\nretry: 1\n",
    "a\0b",
    "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg",
    "\ufeffdata: x",
    ": a comment",
    " data: x",
    "data",
    "</script><script>alert(1)</script>",
    "\U0001f4a9\u202e\u200b",
)
SURROGATE = "a\ud800b"
SETUP = """
from datetime import timedelta
from django.contrib.auth.models import User
from sse_app.access.tokens import create_token
User.objects.filter(username="ann").update(is_staff=True, is_superuser=True)
result = create_token("t", publish=["chat.*"], events=["*"], lifetime=timedelta(days=1))[1]
"""


class Site:
    """A server, somebody signed in there, a program with a token, and a client of its Redis."""

    def __init__(self, daphne: Daphne, valkey: str) -> None:
        self.daphne = daphne
        self.redis = redis.Redis.from_url(valkey)
        self.client = httpx.Client(base_url=daphne.url, timeout=PATIENCE)
        self.client.post("/test/login/", data={"name": "ann"})
        self.client.get("/")
        self.token = self.run(SETUP)

    def run(self, code: str) -> Any:
        answer = self.client.post("/test/run/", data={"code": code})
        assert answer.status_code == 200, answer.text[-2000:]
        return answer.json()["result"]

    def publish(self, text: str) -> bool:
        code = f"from sse_app import publish\npublish({GROUP!r}, 'n', {text!a})"
        return self._taken(self.client.post("/test/run/", data={"code": code}), 500)

    def post_as_program(self, text: str) -> bool:
        return self._taken(
            self.client.post(
                "/events/publish/",
                content=json.dumps({"group": GROUP, "event": "n", "data": text}),
                headers={
                    "Authorization": f"Bearer {self.token}",
                    "Content-Type": "application/json",
                },
            ),
            400,
        )

    def chat(self, text: str) -> bool:
        body = {"group": GROUP, "event": "chat.message", "data": {"text": text}}
        headers = {
            "X-CSRFToken": self.client.cookies["csrftoken"],
            "Content-Type": "application/json",
        }
        answer = self.client.post("/events/send/", content=json.dumps(body), headers=headers)
        return self._taken(answer, 400, 422)

    def broadcast(self, text: str) -> bool:
        # No form can hold a lone surrogate; JSON can spell one.
        kind, body = ("json", json.dumps(text)) if text == SURROGATE else ("text", text)
        form = {
            "groups": GROUP,
            "event": "n",
            "kind": kind,
            "body": body,
            "_confirm": "1",
            "csrfmiddlewaretoken": self.client.cookies["csrftoken"],
        }
        answer = self.client.post("/admin/sse_app/broadcast/add/", data=form)
        return self._taken(answer, 200)  # The form once more, with an error.

    def save(self, text: str) -> bool:
        code = f"Order.objects.create(customer={text!a}, item='x', total=1)"
        code = f"from project.models import Order\n{code}"
        return self._taken(self.client.post("/test/run/", data={"code": code}), 500)

    def write_to_log(self, data: bytes, name: bytes = b"n") -> None:
        """Append to the group's stream as somebody with redis-cli would."""
        head, events = (f"sse_app.{site_tag()}:{{{GROUP}}}:{key}" for key in ("head", "events"))
        offset = self.redis.hincrby(head, "offset", 1)
        self.redis.xadd(events, {"n": name, "d": data}, id=f"{offset}-1")

    def write_to_layer(self, message: Any) -> None:
        """Publish to the group's pub/sub channel; bytes go as they are."""
        packed = message if isinstance(message, bytes) else msgpack.packb(message)
        self.redis.publish(ON_LAYER, packed)

    @staticmethod
    def _taken(answer: httpx.Response, *refused: int) -> bool:
        if answer.status_code in refused:
            return False
        assert answer.status_code in (200, 202, 302), answer.text[-2000:]
        return True


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, valkey: str) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("injection")
    environment = {
        "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
        "REDIS_URL": valkey,
        "SSE_EVENT_LOG": LOG,
    }
    options = {"CHECK_INTERVAL": 0.1, "SPEAK_RATE": 1000, "SPEAK_BURST": 1000}
    daphne = Daphne(folder, environment, **options)
    daphne.manage("migrate", "--verbosity", "0")
    site = Site(daphne.start(), valkey)
    yield site
    site.client.close()
    site.redis.close()
    daphne.close()


def on_the_wire(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


ENTRANCES: dict[str, tuple[Callable[[Site, str], bool], str, Callable[[Any], str]]] = {
    "publish": (Site.publish, "n", lambda event: event.data),
    "program": (Site.post_as_program, "n", lambda event: event.data),
    "chat": (Site.chat, "chat.message", lambda event: event.json()["text"]),
    "admin": (Site.broadcast, "n", lambda event: event.data),
    "model": (Site.save, "order.created", lambda event: event.json()["fields"]["customer"]),
}


async def goes_on(site: Site, stream: StreamReader, retry: int | None) -> None:
    """Nothing more has come than was read, and what is published next comes next."""
    site.publish("and on")
    event = await stream.next()
    assert (event.name, event.data) == ("n", "and on")
    assert stream.parser.retry == retry


@pytest.mark.parametrize("entrance", list(ENTRANCES))
async def test_each_text_is_one_event_and_forges_nothing(site: Site, entrance: str) -> None:
    enter, name, read = ENTRANCES[entrance]
    async with site.daphne.stream(f"group={GROUP}&group=orders") as stream:
        first = await stream.next()
        assert first.name == "sse.open"
        retry, ids = stream.parser.retry, {first.id}
        for text in NASTY:
            taken = enter(site, text)
            if entrance in ("chat", "admin") and "\0" in text:  # No form takes it.
                assert not taken
                continue
            assert taken, repr(text)
            event = await stream.next()
            told = {"chat": text.strip(), "model": text}.get(entrance, on_the_wire(text))
            assert (event.name, read(event)) == (name, told)
            assert event.id.startswith("1.")
            assert event.id not in ids
            ids.add(event.id)
        await goes_on(site, stream, retry)


@pytest.mark.parametrize("entrance", list(ENTRANCES))
async def test_a_lone_surrogate_is_refused_and_nothing_is_published(
    site: Site, entrance: str
) -> None:
    async with site.daphne.stream(f"group={GROUP}&group=orders") as stream:
        assert (await stream.next()).name == "sse.open"
        assert not ENTRANCES[entrance][0](site, SURROGATE)
        await goes_on(site, stream, stream.parser.retry)


async def test_names_with_line_ends_are_refused_everywhere(site: Site) -> None:
    for group, event in ((f"{GROUP}\n", "n"), (GROUP, "n\ndata: x"), (GROUP, "n\0")):
        body = json.dumps({"group": group, "event": event, "data": ""})
        headers = {"Authorization": f"Bearer {site.token}", "Content-Type": "application/json"}
        answer = site.client.post("/events/publish/", content=body, headers=headers)
        assert answer.status_code == 400
        token = site.client.cookies["csrftoken"]
        form = {"groups": group, "event": event, "kind": "text", "body": "1", "_confirm": "1"}
        form["csrfmiddlewaretoken"] = token
        answer = site.client.post("/admin/sse_app/broadcast/add/", data=form)
        # A form's text field strips what is around it, so the first is the group itself.
        assert answer.status_code == (302 if group != GROUP else 200)


async def test_what_is_written_into_the_redis_stream_is_an_event_or_a_reset(site: Site) -> None:
    async with site.daphne.stream(f"group={GROUP}") as stream:
        assert (await stream.next()).name == "sse.open"
        retry = stream.parser.retry
        site.publish("the log exists")
        assert (await stream.next()).data == "the log exists"
        for text in NASTY:
            site.write_to_log(text.encode())
            event = await stream.next()
            if "\r" in text:  # The app never writes one, so it is none of its events.
                assert (event.name, event.json()["group"]) == ("sse.reset", GROUP)
            else:
                assert (event.name, event.data) == ("n", text)
        for name, data in ((b"n", b"\xed\xa0\x80"), (b"sse.close", b"{}"), (b"a\nid: 1", b"x")):
            site.write_to_log(data, name)
            assert (await stream.next()).name == "sse.reset"
        await goes_on(site, stream, retry)
    assert "is not an event" in site.daphne.text()


async def test_what_is_put_on_the_channel_layer_is_one_passing_event(site: Site) -> None:
    async with site.daphne.stream(f"group={GROUP}") as stream:
        opened = await stream.next()
        retry = stream.parser.retry
        for text in NASTY:
            message = {"type": "sse.event", "group": GROUP, "event": "n", "data": text}
            site.write_to_layer(message)
            event = await stream.next()
            assert (event.name, event.data) == ("n", on_the_wire(text))
            assert event.id == opened.id, "a passing event carries no id of its own"
        await goes_on(site, stream, retry)


class Pickled:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def malformed(trap: Path) -> list[Any]:
    """Return messages of foreign shapes; lists and dictionaries go as MessagePack."""
    event = {"type": "sse.event", "group": GROUP, "event": "n", "data": "forged"}
    return [
        pickle.dumps(Pickled(trap)),
        pickle.dumps(event),
        json.dumps(event).encode(),
        b"",
        b"\xc1",
        msgpack.packb(event)[:-3],
        msgpack.packb(event) * 2,
        msgpack.packb({"type": "sse.event", "group": GROUP, "data": b"\xff"}, use_bin_type=False),
        b"\x91" * 2000,
        None,
        5,
        [event],
        {},
        {"type": "chat.message", "group": GROUP},
        {"type": ["sse.event"], "group": GROUP},
        {"type": "sse.event"},
        event | {"group": [GROUP]},
        event | {"group": f"{GROUP}\n"},
        event | {"event": "n\nid: 1"},
        event | {"event": "sse.close"},
        event | {"event": None},
        event | {"data": b"\xff"},
        event | {"data": msgpack.ExtType(5, b"x")},
        event | {"data": float("nan")},
        event | {"key": ["a"]},
        event | {"offset": 1},
        event | {"offset": -1, "epoch": "a"},
        event | {"offset": True, "epoch": "a"},
        event | {"offset": 2**63, "epoch": "a"},
        event | {"offset": 1, "epoch": "A\n"},
        {"type": "sse.events"},
        {"type": "sse.events", "events": {"a": 1}},
        {"type": "sse.events", "events": [5, None, "x"]},
        {"type": "sse.events", "events": [event, {"group": "\n"}]},
    ]


async def test_what_is_no_message_of_the_apps_is_logged_skipped_and_never_unpickled(
    site: Site, tmp_path: Path
) -> None:
    trap = tmp_path / "unpickled"
    messages = malformed(trap)
    async with site.daphne.stream(f"group={GROUP}") as stream:
        assert (await stream.next()).name == "sse.open"
        retry, before = stream.parser.retry, len(site.daphne.text())
        for message in messages:
            site.write_to_layer(message)
        await goes_on(site, stream, retry)
        site.write_to_layer({"type": "sse.event", "group": GROUP, "event": "n", "data": "passing"})
        assert (await stream.next()).data == "passing", "the mailbox is the same as before"
    log = site.daphne.text()[before:]
    assert log.count("Skipped a") == len(messages)
    assert "Traceback" not in log
    assert not trap.exists()
