"""The usual mistakes of a new project: each message names the mistake, the value and the cure."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from channels.testing import HttpCommunicator
from django.contrib.auth.models import AnonymousUser, Group
from django.core.checks import run_checks
from django.core.management import call_command
from django.template import engines
from django.test import RequestFactory, override_settings

from sse_app import apublish, cursor, publish
from sse_app.changes import publish_changes
from sse_app.consumers import EventStreamConsumer

from ..support.patience import PATIENCE
from ..support.servers import ROOT, Daphne, eventually

#: What was done wrong: how, and the words that the message must have.
Mistake = tuple[Callable[[], object], list[str]]


@pytest.fixture(scope="module")
def empty_daphne(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daphne]:
    """A Daphne on a database that nobody has migrated."""
    folder = tmp_path_factory.mktemp("empty")
    database = f"sqlite:///{folder / 'empty.sqlite3'}"
    server = Daphne(folder, {"DATABASE_URL": database, "REDIS_URL": ""})
    yield server.start()
    server.close()


def rendered(template: str, **context: Any) -> str:
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    return engines["django"].from_string("{% load sse %}" + template).render(context, request)


async def publish_in_async_code() -> None:
    publish("orders", "order.updated")


async def cursor_in_async_code() -> None:
    cursor("orders")


def without_parentheses() -> None:
    publish_changes(Group)  # type: ignore[call-arg, arg-type]


def without_groups() -> None:
    publish_changes()  # type: ignore[call-arg]


@override_settings(ROOT_URLCONF="tests.support.plain")
def without_include() -> None:
    rendered("{% sse_stream 'orders' %}")


def checked(**settings: Any) -> str:
    with override_settings(**settings):
        return "\n".join(f"{found.msg} {found.hint}" for found in run_checks(tags=["sse_app"]))


def typed(command: str, *arguments: str) -> str:
    publish("orders", "order.updated")
    written = StringIO()
    call_command(command, *arguments, stdout=written, stderr=written)
    return written.getvalue()


MISTAKES: dict[str, Mistake] = {
    "publish() in async code": (
        lambda: asyncio.run(publish_in_async_code()),
        ["publish() waits for I/O", "`await apublish(…)`"],
    ),
    "cursor() in async code": (
        lambda: asyncio.run(cursor_in_async_code()),
        ["cursor() waits for I/O", "`await acursor(…)`"],
    ),
    "@publish_changes without parentheses": (
        without_parentheses,
        ["@publish_changes of Group needs parentheses", "@publish_changes(groups=['orders'])"],
    ),
    "@publish_changes without groups": (
        without_groups,
        ["@publish_changes needs parentheses and the groups"],
    ),
    "a pattern with a field that is missing": (
        lambda: publish_changes(groups=["order.{nope}"])(Group),
        ["'order.{nope}' names 'nope', but Group has none", "Name a field or property"],
    ),
    "a tag with an empty variable": (
        lambda: rendered("{% sse_stream group %}"),
        ["got '' as a group", "template variable is empty", "'orders'"],
    ),
    "a list of members of an empty variable": (
        lambda: rendered("{% sse_members group as people %}"),
        ["got '' as a group"],
    ),
    "a tag without a group": (
        lambda: rendered("{% sse_stream %}"),
        ["need a group", "{% sse_stream 'orders' %}"],
    ),
    "a tag with a number": (
        lambda: rendered("{% sse_stream 5 %}"),
        ["Invalid group name 5", "for example 'order.42'"],
    ),
    "a private group without a request": (
        lambda: engines["django"].from_string("{% load sse %}{% sse_url 'secret' %}").render({}),
        ["grants secret to the page's user", "use render(request, …)"],
    ),
    "a tag without the include": (
        without_include,
        ["not in tests.support.plain", "path('events/', include('sse_app.urls'))"],
    ),
    "a check without the include": (
        lambda: checked(ROOT_URLCONF="tests.support.plain"),
        ["not in tests.support.plain", "path('events/', include('sse_app.urls'))"],
    ),
    "a setting with a wrong name": (
        lambda: checked(SSE_APP={"HEART_BEAT": 5}),
        ["unknown keys: 'HEART_BEAT'", "HEARTBEAT"],
    ),
    "Django's own handler as the application": (
        lambda: checked(ASGI_APPLICATION="tests.support.plain_asgi.application"),
        ["'tests.support.plain_asgi.application'", "event_stream_application("],
    ),
    "a group name with a space": (
        lambda: publish("my orders", "order.updated"),
        ["Invalid group name 'my orders'", "for example 'order.42'"],
    ),
    "a fixed group with a space": (
        lambda: EventStreamConsumer.as_asgi(groups=["my orders"]),
        ["Invalid group name 'my orders'"],
    ),
    "a fixed group that is no list": (
        lambda: EventStreamConsumer.as_asgi(groups="orders"),
        ["groups='orders' is one group", "groups=['orders']"],
    ),
    "an event name with a space": (
        lambda: publish("orders", "order updated"),
        ["Invalid event name 'order updated'", "for example 'order.updated'"],
    ),
    "data that is not JSON": (
        lambda: publish("orders", "order.updated", object()),
        ["type object can't be JSON", "Give a str"],
    ),
    "an event that is too large": (
        lambda: publish("orders", "order.updated", "x" * 70_000),
        ["The event 'order.updated' for group 'orders'", "MAX_EVENT_BYTES"],
    ),
    "immediate and durable": (
        lambda: publish("orders", "order.updated", immediate=True),
        ["immediate=True requires durable=False"],
    ),
    "a misspelled group in sse_publish": (
        lambda: typed("sse_publish", "ordes", "order.updated", "x"),
        ["No event was published to 'ordes' before.", "Did you mean 'orders'?"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.django_db(transaction=True)
def test_a_mistake_leads_to_its_cure(mistake: str) -> None:
    make, words = MISTAKES[mistake]
    try:
        said = str(make())
    except Exception as error:
        said = str(error)
    assert [word for word in words if word not in said] == [], said


def test_a_refused_request_says_why(shared_daphne: Daphne) -> None:
    url = f"{shared_daphne.url}/events/"
    for query, host, status, words in (
        ("?group=secret", "localhost", 403, ["AnonymousUser", "secret", "PUBLIC_GROUPS"]),
        ("?group=orders", "example.org", 400, ["'example.org'", "ALLOWED_HOSTS"]),
        ("", "localhost", 400, ["Name the groups", "?group=orders"]),
        ("?group=orders&amp;event=x", "localhost", 400, ["'amp;event'", "escaped for HTML"]),
    ):
        answer = httpx.get(f"{url}{query}", headers={"Host": host}, timeout=PATIENCE)
        assert answer.status_code == status, query
        assert [word for word in words if word not in answer.text] == [], answer.text
    assert "WARNING sse_app: AnonymousUser may not listen to secret" in shared_daphne.text()


@pytest.mark.django_db(transaction=True)
async def test_visitors_in_production_are_not_told_the_hint() -> None:
    communicator = HttpCommunicator(
        EventStreamConsumer.as_asgi(),
        "GET",
        "/events/?group=secret",
        headers=[(b"host", b"testserver")],
    )
    answer = await communicator.get_response(timeout=PATIENCE)
    assert (answer["status"], answer["body"]) == (403, b"Not permitted.")


@pytest.mark.slow
def test_a_database_without_tables_is_named_with_the_command(empty_daphne: Daphne) -> None:
    answer = httpx.get(f"{empty_daphne.url}/events/?group=orders", timeout=PATIENCE)
    assert "event: sse.busy\n" in answer.text
    assert '"reason":"log"' in answer.text
    assert "Run `manage.py migrate`." in answer.text
    assert "Run `manage.py migrate`." in empty_daphne.text()


@pytest.mark.slow
def test_a_command_without_tables_has_no_traceback(empty_daphne: Daphne) -> None:
    for command in (["sse_publish", "orders", "n", "x"], ["sse_listen", "orders"]):
        failed = empty_daphne.try_manage(*command)
        assert failed.returncode == 1
        last = failed.stderr.splitlines()[-1]
        assert last.startswith("CommandError: ")
        assert "Run `manage.py migrate`." in last


async def test_a_twin_does_what_the_mistake_wanted(transactional_db: None) -> None:
    assert (await apublish("orders", "order.updated")).offset is not None


APPLICATION = "project.asgi:application"


@contextmanager
def sync_gunicorn(log: Path) -> Iterator[str]:
    """The ASGI application, served as if it were WSGI."""
    with socket.create_server(("127.0.0.1", 0)) as listening, log.open("wb") as file:
        number = listening.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-k", "sync", "-b", f"fd://{number}", APPLICATION],
            pass_fds=[number],
            stdout=file,
            stderr=file,
        )
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            process.terminate()
            process.wait(PATIENCE)


@pytest.mark.slow
def test_a_wsgi_server_logs_that_the_application_is_asgi(tmp_path: Path) -> None:
    log = tmp_path / "gunicorn.log"
    with sync_gunicorn(log) as url:
        assert httpx.get(url, timeout=PATIENCE).status_code == 500
        eventually(lambda: "serve it with daphne or another ASGI server" in log.read_text())


def test_the_demo_says_before_it_installs_what_is_missing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = subprocess.run(
            [sys.executable, ROOT / "project" / "ready.py"],
            env={**os.environ, "PORT": port},
            capture_output=True,
            text=True,
            check=False,
        )
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert f"can't listen on 127.0.0.1, port {port}" in line
    assert "make demo PORT=9000" in line
