"""The tutorial's files, taken literally into an empty project, and what it says of them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import sse_app

ROOT = Path(sse_app.__file__).parent.parent
BLOCK = re.compile(r"^```(?:python|html)\n(?:# |<!-- )(\S+?\.\w+)(.*?)\n(.*?)^```$", re.M | re.S)
WAIT = 20


def run(folder: Path, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(),
        check=True,
        timeout=60,
        capture_output=True,
    )


def environment() -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    return {**own, "PYTHONPATH": str(ROOT)}


def write(folder: Path) -> None:
    """The files as they are at the tutorial's end, without Redis and with the usual limits."""
    for name, remark, text in BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text()):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if remark == ": add at the end":
            file.write_text(f"{file.read_text()}\n{text}")
        elif remark in ("", " -->"):
            file.write_text(text)
        else:
            assert remark == ": with a Redis", remark


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The tutorial's project, served by Daphne."""
    folder = tmp_path_factory.mktemp("hello")
    run(folder, "-m", "django", "startproject", "mysite", ".")
    run(folder, "manage.py", "startapp", "chat")
    write(folder)
    run(folder, "manage.py", "check")
    run(folder, "manage.py", "migrate", "--verbosity", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "daphne", "-p", str(port), "mysite.asgi:application"]
    with (folder / "log").open("w") as log:
        daphne = subprocess.Popen(
            command, cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/events/health/", daphne)
        yield folder, address
    finally:
        daphne.send_signal(signal.SIGTERM)
        daphne.wait(timeout=WAIT)


def wait_for(url: str, daphne: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + WAIT
    while time.monotonic() < end and daphne.poll() is None:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    pytest.fail(f"{url} does not answer")


def read(url: str, until: str, **headers: str) -> str:
    """What a stream says, up to and with `until`."""
    text = ""
    with httpx.stream("GET", url, headers=headers, timeout=WAIT) as answer:
        for part in answer.iter_text():
            text += part
            if until in text:
                return text
    pytest.fail(f"the stream ended without {until!r}: {text}")


def test_the_clock_has_names_and_ids_and_ticks_again(site: tuple[Path, str]) -> None:
    text = read(f"{site[1]}/clock/", "retry:")
    assert "event: tick\n" in text
    with httpx.stream("GET", f"{site[1]}/clock/", timeout=WAIT) as answer:
        ticks = (line for line in answer.iter_lines() if line.startswith("data:"))
        assert next(ticks) != next(ticks)


def test_what_the_command_publishes_comes_and_an_id_resumes(site: tuple[Path, str]) -> None:
    folder, address = site
    run(folder, "manage.py", "sse_publish", "news", "message", "hello")
    run(folder, "manage.py", "sse_publish", "news", "weather", '{"degrees": 21}', "--json")
    text = read(f"{address}/events/?group=news&from=earliest", '{"degrees":21}')
    assert "data: hello\n" in text
    hello = next(block for block in text.split("\n\n") if "hello" in block)
    position = re.search(r"^id: ?(.+)$", hello, re.M)
    assert position
    rest = read(f"{address}/events/?group=news", "degrees", **{"Last-Event-ID": position[1]})
    assert "hello" not in rest
    assert '"missed":1' in rest


def test_a_user_speaks_in_the_lobby_and_a_stranger_does_not(site: tuple[Path, str]) -> None:
    folder, address = site
    make = (
        "from django.contrib.auth.models import User; "
        "User.objects.create_superuser('ann', password='x')"
    )
    run(folder, "manage.py", "shell", "--command", make)
    with httpx.Client(base_url=address, timeout=WAIT) as ann:
        assert "sse-stream" in ann.get("/chat/").text
        assert say(ann, "hello").status_code == 403
        ann.get("/admin/login/")
        token = ann.cookies["csrftoken"]
        form = {"username": "ann", "password": "x", "csrfmiddlewaretoken": token}
        assert ann.post("/admin/login/", data=form).status_code == 302
        assert say(ann, "hello").json() == {"said": "hello"}
        assert say(ann, " ").status_code == 422
        # The policy lets a member of the staff in, and nobody else.
        cookies = "; ".join(f"{name}={value}" for name, value in ann.cookies.items())
        assert "sse.open" in read(f"{address}/events/?group=staff", "sse.open", Cookie=cookies)
    assert httpx.get(f"{address}/events/?group=staff").status_code == 403
    heard = read(f"{address}/events/?group=chat.lobby&from=earliest", "hello")
    assert '{"who":"ann","text":"hello"}' in heard


def say(client: httpx.Client, text: str) -> httpx.Response:
    body = {"group": "chat.lobby", "event": "chat.message", "data": {"text": text}}
    headers = {"X-CSRFToken": client.cookies["csrftoken"]}
    return client.post("/events/send/", json=body, headers=headers)


def test_the_page_loads_its_script(site: tuple[Path, str]) -> None:
    page = httpx.get(f"{site[1]}/chat/").text
    script = re.search(r'<script type="module" src="([^"]+)"', page)
    assert script
    assert httpx.get(f"{site[1]}{script[1]}").status_code == 200
