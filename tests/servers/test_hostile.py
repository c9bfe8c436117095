"""Thousands of bad requests against a real Daphne as in production, and a server as before."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from ..support.hostility import fixed_list, requests
from ..support.patience import PATIENCE
from ..support.raw_http import Connection, Request
from ..support.servers import Daphne, eventually
from ..support.sleepers import MIB, kept_by, start_counting
from ..support.targets import Target

AT_LEAST = 5000
EXAMPLES = 1500
STATUSES = {200, 204, 400, 401, 403, 404, 405, 413, 415, 422}
#: Of five thousand requests: less than a kilobyte of each, with all caches.
MOST_KEPT = 4 * MIB


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hostile")
    environment = {
        "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
        "REDIS_URL": "",
        "DEBUG": "0",
        "SECRET_KEY": "only-of-this-test-" + "x" * 40,
    }
    # So fast nobody speaks, and the bodies are to be read.
    fast = {"SPEAK_RATE": 1e6, "SPEAK_BURST": 1_000_000}
    server = Daphne(folder, environment, TRUSTED_PROXIES=["127.0.0.1"], **fast)
    server.manage("migrate", "--verbosity", "0")
    yield Target(server.start())
    server.close()


@pytest.mark.matrix
def test_five_thousand_bad_requests_leave_the_server_as_it_was(target: Target) -> None:
    secrets = target.secrets
    listed = [*fixed_list(), *secrets.mutated()]
    signed_in = [
        request.having(*secrets.signed_in)
        for number, request in enumerate(listed)
        if number % 2 or request.method == b"POST"
    ]
    target.ask_all(listed[::8])
    start_counting(target.daphne)
    target.ask_all(listed[::2] + signed_in)
    send_examples(target)
    assert target.sent >= AT_LEAST
    assert target.answered > 0.9 * target.sent
    assert target.statuses >= STATUSES, "not every check was reached"
    eventually(lambda: target.get("counts") == {}, "places of streams are still taken")
    kept = kept_by(target.daphne)
    assert kept < MOST_KEPT, f"{kept} bytes"
    assert "Traceback" not in target.daphne.text(), target.daphne.text()[-3000:]


def send_examples(target: Target) -> None:
    count = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(request=requests)
    def send(request: Request) -> None:
        nonlocal count
        count += 1
        target.ask(request.having(*target.secrets.signed_in) if count % 2 else request)

    send()


def test_a_header_that_daphne_by_itself_can_not_decode_is_ignored(target: Target) -> None:
    asked = Request(headers=((b"Daphne-Root-Path", b"\xff"),))
    answer = Connection(target.daphne.port).ask(asked)
    assert answer is not None
    assert answer.status == 200
    assert "UnicodeDecodeError" not in target.daphne.text()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (b"multipart/form-data; boundary=b; charset=hex", b"Server Error (500)"),
        (b"application/x-www-form-urlencoded; charset=latin1", b"Exception inside application"),
    ],
)
def test_what_djangos_csrf_check_makes_of_a_forms_charset(
    target: Target, kind: bytes, said: bytes
) -> None:
    """At every URL of every Django site: the check decodes the form before any view is asked."""
    headers = ((b"Cookie", b"csrftoken=" + b"a" * 32), (b"Content-Type", kind))
    body = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nab\r\n--b--\r\n'
    for path in (b"/login/", b"/events/send/"):
        answer = Connection(target.daphne.port).ask(Request(b"POST", path, headers, body))
        assert answer is not None
        assert (answer.status, said in answer.body) == (500, True)


async def test_the_server_then_serves_and_stops_as_ever(target: Target) -> None:
    daphne = target.daphne
    async with daphne.stream("group=chat.smoke") as stream:
        assert (await stream.next()).name == "sse.open"
        daphne.publish("chat.smoke", "n", "still here")
        event = await stream.next()
        assert (event.name, event.data) == ("n", "still here")
        assert target.get("counts")["process"] == 1
    eventually(lambda: target.get("streams") == {"streams": 0})
    eventually(lambda: target.get("counts") == {})
    async with daphne.stream("group=chat.smoke") as stream:
        assert (await stream.next()).name == "sse.open"
        assert daphne.process is not None
        daphne.process.send_signal(signal.SIGTERM)
        *_, last = await stream.until_end()
        assert (last.name, last.json()["reason"]) == ("sse.close", "shutdown")
    assert daphne.process.wait(PATIENCE) == 0
