"""The tutorial's files, taken literally into an empty project, and what it says of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from html import unescape
from pathlib import Path

import httpx
import pytest

from ..support.newcomers import ROOT, make, read, run, served
from ..support.patience import PATIENCE
from ..support.servers import eventually

pytestmark = pytest.mark.project

BLOCK = re.compile(r"^```(?:python|html)\n(?:# |<!-- )(\S+?\.\w+)(.*?)\n(.*?)^```$", re.M | re.S)


def write(folder: Path) -> None:
    """The files as they are at the tutorial's end, without Redis."""
    for name, remark, text in BLOCK.findall((ROOT / "docs" / "start" / "tutorial.md").read_text()):
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
    make(folder, "chat")
    write(folder)
    with served(folder) as address:
        yield folder, address


def test_the_clock_has_names_and_ids_and_ticks_again(site: tuple[Path, str]) -> None:
    text = read(f"{site[1]}/clock/", "retry:")
    assert "event: tick\n" in text
    with httpx.stream("GET", f"{site[1]}/clock/", timeout=PATIENCE) as answer:
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


def test_nothing_falls_into_the_gap_between_the_page_and_its_stream(
    site: tuple[Path, str],
) -> None:
    folder, address = site
    page = httpx.get(f"{address}/", timeout=PATIENCE).text
    stream = re.search(r'data-stream="(.+?)"', page)
    assert stream
    assert "sse_url" not in page
    assert "last_event_id" not in page[page.index("<script>") :], "there it would stay escaped"
    run(folder, "manage.py", "sse_publish", "news", "message", "in the gap")
    assert "data: in the gap\n" in read(address + unescape(stream[1]), "in the gap")


def test_a_user_speaks_in_the_lobby_and_a_stranger_does_not(site: tuple[Path, str]) -> None:
    folder, address = site
    code = (
        "from django.contrib.auth.models import User; "
        "User.objects.create_superuser('ann', password='x')"
    )
    run(folder, "manage.py", "shell", "--command", code)
    with httpx.Client(base_url=address, timeout=PATIENCE) as ann:
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


def test_the_doctor_finds_nothing(site: tuple[Path, str]) -> None:
    folder, address = site
    read(f"{address}/events/?group=news", "sse.open")  # From then on the server reports.
    doctor = (folder, "manage.py", "sse_doctor", "--strict")
    eventually(lambda: "ok: server: Examined process " in run(*doctor))


def test_a_third_stream_is_told_to_come_back(site: tuple[Path, str]) -> None:
    url = f"{site[1]}/events/?group=news"
    with ExitStack() as stack:
        readers = []  # A reader that nobody holds closes its stream.
        for _ in range(2):
            answer = stack.enter_context(httpx.stream("GET", url, timeout=PATIENCE))
            readers.append(answer.iter_text())
            assert "sse.open" in next(readers[-1])
        third = read(url, "\n\n")
    assert 'event: sse.busy\ndata: {"reason":"process"}' in third
