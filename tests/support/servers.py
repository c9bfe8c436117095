"""Real servers for the tests: ASGI servers on a socket of the test's own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import httpx
import psycopg

from .parser import Parsed, Parser
from .patience import PATIENCE

ROOT = Path(__file__).resolve().parent.parent.parent
#: A bound for what would hang. It never passes where all is well, however slow the machine.
#: By `make coverage`.
MEASURED = "COVERAGE_PROCESS_CONFIG" in os.environ
#: What `test/failing/` answers: what came before the exception, and a farewell.
FAILED_STREAM = re.compile(
    r'retry: \d+\nevent: before\ndata: {"n":1}\n\n'
    r'retry: \d+\nevent: sse\.close\ndata: {"reason":"error"}\n\n'
)


def eventually(check: Callable[[], Any], what: str = "", within: float = PATIENCE) -> Any:
    """Return the first true result of `check`; fail after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        result = check()
        if result:
            return result
        assert time.monotonic() < deadline, what or "it did not happen in time"
        time.sleep(0.01)


def connect_postgresql(name: str) -> psycopg.Connection:
    """Connect to a database of the tests' PostgreSQL."""
    return psycopg.connect(
        dbname=name,
        host=os.environ["TEST_POSTGRES_HOST"],
        port=os.environ["TEST_POSTGRES_PORT"],
        user=os.environ["TEST_POSTGRES_USER"],
        autocommit=True,
    )


@contextmanager
def empty_database() -> Iterator[str]:
    """Make an empty PostgreSQL database, and drop it in the end; its name."""
    name = f"sse_{uuid.uuid4().hex[:8]}"
    with connect_postgresql("postgres") as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        try:
            yield name
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[call-overload]


class Server:
    """A real server process on a listening socket that the test made, so no port is guessed."""

    module: ClassVar[str]
    application: ClassVar[str] = "project.asgi:application"
    #: The folder with `manage.py`.
    root: Path = ROOT

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        *,
        options: Sequence[str] = (),
        **sse_app: Any,
    ) -> None:
        self.options = options
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "SSE_EVENT_LOG"},
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            # A reader that sleeps may sleep for as long as its test takes.
            "TEST_SSE_APP": json.dumps({"STALL_SECONDS": 600, **sse_app}),
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self.log = folder / f"{self.module}-{uuid.uuid4().hex[:6]}.log"
        self.socket = self.listen()
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def listen(self) -> socket.socket:
        return socket.create_server(("127.0.0.1", 0), backlog=4096)

    def where(self) -> list[str]:
        """The options that hand over the socket."""
        return ["--fd", str(self.socket.fileno())]

    def command(self) -> list[str]:
        command = [sys.executable, "-m", self.module, *self.options, *self.where()]
        return [*command, self.application]

    def start(self) -> Self:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.root,
                env=self.environment,
                pass_fds=[self.socket.fileno()],
                stdout=log,
                stderr=log,
            )
        eventually(self._answers, f"{self.module} did not start: {self.text()}")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.module} ended: {self.text()}"
        try:
            return httpx.get(f"{self.url}/test/streams/", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop it; fail if it does not end by itself."""
        assert self.process is not None
        self.process.send_signal(how)
        try:
            self.process.wait(PATIENCE)
        finally:
            self._kill()

    def close(self) -> None:
        # Which lines a process ran it tells only if it may end by itself.
        if MEASURED and self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
        self._kill()
        self.socket.close()

    def _kill(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        # Some servers are a parent with workers, which would outlive it.
        pid = self.process.pid
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self.process.kill()
        self.process.wait()
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(int(worker), signal.SIGKILL)

    def streams(self) -> int:
        """How many streams are open."""
        return int(httpx.get(f"{self.url}/test/streams/", timeout=PATIENCE).json()["streams"])

    def until_streams(self, count: int) -> None:
        """Wait until `count` streams are open: the server notices a closed one a moment later."""
        eventually(lambda: self.streams() == count, f"it never had {count} streams")

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def manage(self, *arguments: str) -> str:
        """Run `manage.py` with the server's environment: another process, the same database."""
        done = self.try_manage(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def try_manage(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """As `manage()`, whatever comes of it."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.root,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE * 3,
        )

    def shell(self, code: str) -> str:
        return self.manage("shell", "--no-imports", "-c", code)

    def publish(self, group: str, event: str, data: str, how: str = "publish") -> Any:
        form = {"group": group, "event": event, "data": data}
        answer = httpx.post(f"{self.url}/test/{how}/", data=form, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @asynccontextmanager
    async def stream(
        self, query: str, headers: dict[str, str] | None = None, client: Any = None
    ) -> AsyncIterator[StreamReader]:
        own = client or httpx.AsyncClient(timeout=PATIENCE)
        try:
            request = own.stream("GET", f"{self.url}/events/?{query}", headers=headers)
            async with request as response:
                yield StreamReader(response)
        finally:
            if client is None:
                await own.aclose()


class Daphne(Server):
    """A real `daphne` process."""

    module = "daphne"

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        *,
        access_log: str | Path = os.devnull,
        options: Sequence[str] = (),
        **sse_app: Any,
    ) -> None:
        options = ["--access-log", str(access_log), *options]
        super().__init__(folder, environment, options=options, **sse_app)


class StreamReader:
    """Reads one response with the independent parser."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.parser = Parser()
        self._chunks = response.aiter_raw()
        self._taken = 0

    async def next(self) -> Parsed:
        """Return the next event; raises `StopAsyncIteration` at the end of the stream."""
        async with asyncio.timeout(PATIENCE):  # Heartbeats would keep it waiting for ever.
            while self._taken >= len(self.parser.events):
                self.parser.feed(await anext(self._chunks))
        self._taken += 1
        return self.parser.events[self._taken - 1]

    async def take(self, count: int) -> list[Parsed]:
        return [await self.next() for _ in range(count)]

    async def until_end(self) -> list[Parsed]:
        events = []
        while True:
            try:
                events.append(await self.next())
            except StopAsyncIteration:
                return events

    async def heartbeat(self) -> None:
        """Return after the next comment line."""
        seen = self.parser.comments
        while self.parser.comments == seen:
            self.parser.feed(await anext(self._chunks))
