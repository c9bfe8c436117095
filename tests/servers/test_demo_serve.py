"""`manage.py demo_serve`: the demo's server, restarted by a button of its landing page."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from project.showcase import RESTART_EVENTS

from ..support.parser import Parsed, Parser
from ..support.patience import PATIENCE
from ..support.proxies import free_port
from ..support.servers import Server, eventually


class Runner(Server):
    """The runner with a Daphne of its own, on a port that it opens itself."""

    module = "demo_serve"

    def command(self) -> list[str]:
        self.environment["PORT"] = str(free_port())
        self.url = f"http://127.0.0.1:{self.environment['PORT']}"
        return [sys.executable, "manage.py", "demo_serve"]


@pytest.fixture
def runner(tmp_path: Path, migrated: Path) -> Iterator[Runner]:
    database = shutil.copy(migrated, tmp_path)
    environment = {"DATABASE_URL": f"sqlite:///{database}", "REDIS_URL": "", "DEBUG": "1"}
    runner = Runner(tmp_path, environment, HEARTBEAT=0.4)
    yield runner.start()
    runner.close()


def listen(client: httpx.Client, last_id: str, until: Callable[[Parsed], bool]) -> list[Parsed]:
    """Return the events of the showcase up to the one that `until` is true of."""
    parser = Parser()
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with client.stream("GET", "/events/?group=showcase", headers=headers) as response:
        for chunk in response.iter_raw():
            parser.feed(chunk)
            if any(until(event) for event in parser.events):
                break
    return parser.events


def come_back(client: httpx.Client, last_id: str) -> list[Parsed]:
    """Return what a client is told that comes back, empty if that is to come again."""
    try:
        events = listen(client, last_id, is_last)
    except httpx.RemoteProtocolError:
        return []
    return [event for event in events if event.name != "sse.busy"]


def is_last(event: Parsed) -> bool:
    return event.name == "showcase.number" and event.json()["n"] == RESTART_EVENTS


def test_the_button_restarts_the_server_and_what_passes_meanwhile_is_found(runner: Runner) -> None:
    with httpx.Client(base_url=runner.url, timeout=PATIENCE) as client:
        assert 'data-testid="restart"' in client.get("/").text
        headers = {"X-CSRFToken": client.cookies["csrftoken"], "Referer": runner.url}
        pressed: list[int] = []

        def closes(event: Parsed) -> bool:
            if event.name == "sse.open" and not pressed:
                answer = httpx.post(
                    f"{runner.url}/showcase/restart/", headers=headers, cookies=client.cookies
                )
                pressed.append(answer.status_code)
            return event.name == "sse.close"

        *_, farewell = listen(client, "", closes)
        assert pressed == [202]
        assert farewell.json() == {"reason": "shutdown"}
        # Nobody is refused, as the runner holds the socket. Only the server that stops may be busy,
        # or end before it answers: a client comes again.
        back = eventually(lambda: come_back(client, farewell.id))
    numbers = [event.json()["n"] for event in back if event.name == "showcase.number"]
    assert numbers == list(range(1, RESTART_EVENTS + 1))
    runner.stop()
    assert runner.process is not None
    assert runner.process.returncode == 0


def test_a_server_that_ends_by_itself_is_not_started_again(runner: Runner) -> None:
    assert runner.process is not None
    pid = runner.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    assert runner.process.wait(PATIENCE) == 256 - signal.SIGKILL
