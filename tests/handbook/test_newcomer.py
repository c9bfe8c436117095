"""The README's quick start, taken literally: into an empty project, with the wheel."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import django
import pytest

from ..support.distributions import ROOT, build
from ..support.patience import PATIENCE

pytestmark = pytest.mark.project

README = (ROOT / "README.md").read_text()
SECTION = README.split("\n## Quick start\n")[1].split("\n## ")[0]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?:# |<!-- )([\w/.]+)(?: -->)?\n")
NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
NUMBERS += ["eleven", "twelve", "thirteen", "fourteen", "fifteen"]
#: As long as the first request may take on a machine that does much else.
#: With this variable pip fetches Django, Channels and Daphne into the new environment.
DOWNLOADS = "NEWCOMER_DOWNLOADS" in os.environ


class Step(NamedTuple):
    """A block of the quick start: commands, or lines for the end of a file."""

    language: str
    file: str
    text: str

    @property
    def lines(self) -> int:
        return sum(1 for line in self.text.splitlines() if line.strip())


def steps() -> Iterator[Step]:
    for language, text in FENCE.findall(SECTION):
        named = FILE.match(text)
        assert named or language == "sh", f"a block does not say which file it is for: {text}"
        yield Step(language, named[1], text[named.end() :]) if named else Step(language, "", text)


STEPS = list(steps())
COMMANDS = [step.text for step in STEPS if step.language == "sh"]
#: What is there before the first event is seen, and what the page needs.
PAGE = next(number for number, step in enumerate(STEPS) if step.language == "html")


def test_the_readme_says_how_many_lines_it_takes() -> None:
    first = sum(step.lines for step in STEPS[:PAGE] if step.file)
    page = sum(step.lines for step in STEPS[PAGE:])
    assert first <= 15
    said = f"{NUMBERS[first]} lines of code to the first live event, {NUMBERS[page]} more for"
    assert f"{said} a page" in " ".join(SECTION.split())


class Newcomer:
    """Somebody in an empty folder who does what the README says."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder, self.wheel = folder, wheel
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        # A terminal of somebody who has nothing of this repository in the environment.
        self.environment = {
            "PATH": f"{folder / 'env' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": os.environ.get("HOME", str(folder)),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def type(self, commands: str) -> None:
        """Run what a block of the README has, line by line, except for the server."""
        for command in commands.splitlines():
            if command.startswith("pip install "):
                command = self._installation(command)
            elif command == ". env/bin/activate":
                continue  # The path has it.
            done = subprocess.run(
                shlex.split(command),
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def _installation(self, command: str) -> str:
        assert command == "pip install ../sse_app"
        if DOWNLOADS:
            return f"pip install {self.wheel}"
        # What the app needs is seen where it is, so that nothing is fetched; not the app itself.
        (packages,) = (self.folder / "env").glob("lib/python*/site-packages")
        (packages / "installed.pth").write_text(f"{Path(django.__file__).parent.parent}\n")
        scripts = self.folder / "env" / "bin"
        admin = scripts / "django-admin"
        admin.write_text(f'#!/bin/sh\nexec "{scripts / "python"}" -m django "$@"\n')
        admin.chmod(0o755)
        return f"pip install --no-deps --no-index {self.wheel}"

    def write(self, step: Step) -> None:
        file = self.folder / step.file
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as end:
            end.write("\n" + step.text)

    @contextmanager
    def server(self, command: str) -> Iterator[None]:
        """Run the README's server, on a port of its own."""
        with (self.folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [*shlex.split(command), str(self.port)],
                cwd=self.folder,
                env={**self.environment, "PYTHONUNBUFFERED": "1"},
                stdout=log,
                stderr=log,
                # `runserver` has a child that serves, and both are ended.
                start_new_session=True,
            )
        try:
            self._wait(process)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(PATIENCE)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                said = (self.folder / "server.log").read_text()
                assert process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.02)

    def get(self, path: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", path)
        return connection.getresponse()


def read_event(stream: http.client.HTTPResponse, name: str) -> list[str]:
    """Read to the end of the next event that is called `name`; its lines."""
    block: list[str] = []
    while True:
        line = stream.readline().decode()
        assert line, "the stream ended"
        if line != "\n":
            block.append(line.rstrip("\n"))
        elif f"event: {name}" in block:
            return block
        else:
            block = []


def test_the_quick_start_leads_from_an_empty_folder_to_a_live_event(tmp_path: Path) -> None:
    (wheel,) = build(tmp_path / "built", "wheel").iterdir()
    folder = tmp_path / "mine"
    folder.mkdir()
    newcomer = Newcomer(folder, wheel)
    setup, start, listen, save = COMMANDS
    prepare, server = start.rstrip("\n").rsplit("\n", 1)
    assert server == "python manage.py runserver"

    newcomer.type(setup)
    for step in STEPS:
        if step.file:
            newcomer.write(step)
    newcomer.type(prepare)
    newcomer.type("""python -c 'import sse_app; assert "/env/lib/" in sse_app.__file__'""")
    address = re.fullmatch(r"curl -N 'http://127\.0\.0\.1:8000(/\S+)'\n", listen)
    assert address, listen
    with newcomer.server(server):
        stream = newcomer.get(address[1])
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        read_event(stream, "sse.open")
        newcomer.type(save)
        assert 'data: {"pk":1,"fields":{"status":"new"}}' in read_event(stream, "order.created")
        page = newcomer.get("/").read().decode()
        assert '<sse-live id="live-orders" for="orders" url="/events/?group=orders' in page
        assert " new " in page
        for script, element in (("sse", b"sse-stream"), ("live", b"sse-live")):
            (address,) = re.findall(rf'src="(\S+/{script}\.js)"', page)
            assert element in newcomer.get(address).read()
        newcomer.type("python manage.py sse_doctor --strict")
