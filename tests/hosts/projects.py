"""Small Django projects, each in a folder of its own, with its own `daphne` and `manage.py`.

A project begins as `startproject` makes it, with the lines that the quick start adds. A case adds
settings, or files of its own. The app of a project is `tests.hosts.shop`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import httpx
from django.core.management import call_command

from ..support.parser import Parsed, Parser
from ..support.patience import PATIENCE
from ..support.servers import ROOT, Daphne

SETTINGS = """
INSTALLED_APPS = ["daphne", *INSTALLED_APPS, "channels", "sse_app", "tests.hosts.shop"]
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
ASGI_APPLICATION = "mysite.asgi.application"
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
DATABASES["default"]["OPTIONS"] = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL",
}
SSE_APP = {"HEARTBEAT": 0.4, "MAY_LISTEN": "tests.hosts.shop.views.may_listen"}
"""
ASGI = """import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
django_application = get_asgi_application()

from sse_app.asgi import event_stream_application

application = event_stream_application(django_application)
"""
#: For pages in a browser: also serves the static files.
WITH_FILES = {
    "mysite/asgi.py": ASGI.replace(
        "application = event_stream_application(django_application)",
        "from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler\n"
        "application = event_stream_application(ASGIStaticFilesHandler(django_application))",
    )
}
FILES = {
    "mysite/asgi.py": ASGI,
    "mysite/urls.py": "from tests.hosts.shop.urls import urlpatterns\n",
}


class Host(Daphne):
    """A project in `folder`, and its Daphne.

    `lines`: Python for the end of the settings. `files`: further files by their path, also in place
    of those that every project has. `settings`: Django's settings.
    """

    application: ClassVar[str] = "mysite.asgi:application"
    settings_module: ClassVar[str] = "mysite.settings"
    #: A page that is asked for to see whether the server answers.
    first: ClassVar[str] = "/page/"

    def __init__(
        self,
        folder: Path,
        *,
        lines: str = "",
        files: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.root = folder
        self.make()
        with (folder / f"{self.settings_module.replace('.', '/')}.py").open("a") as end:
            end.writelines(f"{name} = {value!r}\n" for name, value in settings.items())
            end.write(lines)
        for path, text in (files or {}).items():
            self.write(path, text)
        path = f"{folder}:{ROOT}"
        environment = {"DJANGO_SETTINGS_MODULE": self.settings_module, "PYTHONPATH": path}
        super().__init__(folder, environment)

    def make(self) -> None:
        """Write the project's files."""
        call_command("startproject", "mysite", self.root)
        self.add("mysite/settings.py", SETTINGS)
        for path, text in FILES.items():
            self.write(path, text)

    def write(self, path: str, text: str) -> None:
        """Write a file of the project."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def add(self, path: str, text: str) -> None:
        """Add lines to the end of a file."""
        with (self.root / path).open("a") as end:
            end.write(text)

    def migrate(self) -> None:
        """Make the tables, also those of apps without migrations."""
        self.manage("migrate", "--run-syncdb", "--verbosity", "0")

    def run(self, code: str) -> Any:
        """Return the `result` of code that runs in the server's process."""
        answer = httpx.post(f"{self.url}/run/", data={"code": code}, timeout=PATIENCE)
        assert answer.status_code == 200, self.text()[-3000:]
        return answer.json()["result"]

    def _answers(self) -> bool:
        # Any answer: a project may redirect, or need a login.
        assert self.process is not None
        assert self.process.poll() is None, f"{self.module} ended: {self.text()}"
        try:
            return bool(httpx.get(f"{self.url}{self.first}", timeout=PATIENCE).status_code)
        except httpx.TransportError:
            return False


def like(migrated: Path, folder: Path) -> None:
    """Give the project in `folder` the tables of the project in `migrated`."""
    shutil.copy(migrated / "db.sqlite3", folder)


class Listener:
    """One open response, read as bytes: nothing decodes what a middleware has encoded."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.status, self.headers = response.status_code, response.headers
        self._parser = Parser()
        self._chunks = response.iter_raw()
        self._taken = 0

    def next(self) -> Parsed:
        """Return the next event; raises `StopIteration` at the end."""
        while self._taken >= len(self._parser.events):
            self._parser.feed(next(self._chunks))
        self._taken += 1
        return self._parser.events[self._taken - 1]

    def until(self, name: str) -> Parsed:
        """Return the next event with this name."""
        while (event := self.next()).name != name:
            pass
        return event


class Visitor(httpx.Client):
    """A visitor with cookies, who sends requests as `sse.js` does on the pages of the project."""

    def __init__(self, host: Host, prefix: str = "", **options: Any) -> None:
        # Paths are as the project's URLconf has them; the URLs on a page are whole.
        super().__init__(base_url=f"{host.url}{prefix}", timeout=PATIENCE, **options)
        self.host, self.origin = host, host.url

    def enter(self, name: str = "ann@example.com") -> Any:
        """Sign in; return the user's primary key."""
        answer = self.post("/enter/", data={"name": name})
        assert answer.status_code == 200, self.host.text()[-3000:]
        return answer.json()["pk"]

    def page(self, path: str = "/page/") -> Page:
        """Load a page of the project."""
        answer = self.get(path)
        assert answer.status_code == 200, f"{answer.status_code}: {answer.text[:500]}"
        return Page(self, answer.text)

    def stream_of(self, path: str = "/page/") -> str:
        """Return the URL of the stream on a page."""
        return self.page(path).url

    def act(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """Post JSON with the CSRF token of the cookie, as a page does."""
        token = self.cookies.get("csrftoken", "")
        own = {"X-CSRFToken": token, "Origin": str(self.base_url).rstrip("/")}
        return self.post(f"/events/{path}/", json=body, headers={**own, **headers})

    @contextmanager
    def listen(self, url: str, **headers: str) -> Iterator[Listener]:
        """Open a stream as a browser does."""
        accept = {"Accept": "text/event-stream", "Accept-Encoding": "gzip, deflate, br"}
        with self.stream("GET", url, headers={**accept, **headers}) as response:
            yield Listener(response)


class Page:
    """A loaded page: its stream, and what its script posts."""

    def __init__(self, visitor: Visitor, text: str) -> None:
        self._visitor = visitor
        self.text = text
        found = re.search(r'<sse-stream url="([^"]+)"', text)
        assert found, text[:500]
        self.url = visitor.origin + unescape(found[1])
        self.mount = self.url.partition("?")[0]

    @property
    def grant(self) -> str:
        """The grant of the stream's URL."""
        return parse_qs(urlsplit(self.url).query)["grant"][0]

    def post(self, path: str, body: Any) -> httpx.Response:
        """Post JSON to an endpoint beside the stream, with the token as the script finds it."""
        given = dict(re.findall(r'data-csrf-(\w+)="([^"]*)"', self.text))
        token = self._visitor.cookies.get(given.get("cookie", "csrftoken")) or given.get(
            "token", ""
        )
        sent = self._visitor.headers
        scheme, host = sent.get("X-Forwarded-Proto", "http"), sent.get("Host", self.url[7:])
        origin = f"{scheme}://{host.partition('/')[0]}"
        headers = {given.get("header", "X-CSRFToken"): token, "Origin": origin}
        return self._visitor.post(f"{self.mount}{path}/", json=body, headers=headers)
