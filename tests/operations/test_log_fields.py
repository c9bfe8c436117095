"""The fields beside the text of log records, as a JSON formatter writes them."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import logging
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import sse_app
from sse_app.runtime.telemetry import log_fields, process_name

from ..support.servers import ROOT, Daphne, eventually
from ..support.sleepers import run

PAGE = ROOT / "docs" / "operations" / "operating.md"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def logged(server: Daphne) -> list[dict[str, Any]]:
    """What the app has logged, by the formatter of the documentation."""
    lines = [line for line in server.text().splitlines() if line.startswith("{")]
    return [record for line in lines if (record := json.loads(line))["name"] == "sse_app"]


@pytest.fixture
def daphne(make_daphne: Callable[..., Daphne]) -> Daphne:
    return make_daphne({"TEST_LOGGING_BY": str(PAGE)})


def of_stream(server: Daphne, how: str) -> dict[str, Any]:
    (found,) = eventually(
        lambda: [record for record in logged(server) if f" {how}" in record["message"]],
        server.text(),
    )
    return dict(found)


async def test_a_stream_is_logged_when_it_opens_and_when_it_closes(daphne: Daphne) -> None:
    name = await asyncio.to_thread(
        run, daphne, "from sse_app.runtime.telemetry import process_name\nresult = process_name()"
    )
    async with daphne.stream("group=orders&group=chat.a") as stream:
        await stream.next()
        opened = await asyncio.to_thread(of_stream, daphne, "opened")
    closed = await asyncio.to_thread(of_stream, daphne, "closed")
    fields = {
        "sse_process": name,
        "sse_stream": opened["sse_stream"],
        "sse_address": "127.0.0.1",
        "sse_groups": ["chat.a", "orders"],
    }
    assert {key: opened[key] for key in opened if key.startswith("sse_")} == fields
    assert opened["levelname"] == "INFO"
    assert closed.pop("sse_seconds") >= 0
    assert closed.pop("sse_bytes") > 50
    fields["sse_reason"] = "disconnect"
    assert {key: closed[key] for key in closed if key.startswith("sse_")} == fields


async def test_no_record_has_anything_that_opens_something(daphne: Daphne) -> None:
    key, grant, token = await asyncio.to_thread(
        run,
        daphne,
        "from datetime import timedelta\n"
        "from django.contrib.auth.models import User\n"
        "from django.contrib.sessions.backends.db import SessionStore\n"
        "from sse_app.access.grants import Grant\n"
        "from sse_app.access.tokens import create_token\n"
        "user = User.objects.create_user('ann', password='secret')\n"
        "session = SessionStore()\n"
        "session['_auth_user_id'] = str(user.pk)\n"
        "session['_auth_user_backend'] = 'django.contrib.auth.backends.ModelBackend'\n"
        "session['_auth_user_hash'] = user.get_session_auth_hash()\n"
        "session.save()\n"
        "grant = Grant.to(user, ['secret.group']).sign()\n"
        "token = create_token('t', listen=['*'], lifetime=timedelta(days=1))[1]\n"
        "result = [session.session_key, grant, token]\n",
    )
    cookie = {"Cookie": f"sessionid={key}"}
    bearer = {"Authorization": f"Bearer {token}"}
    for query, headers in ((f"grant={grant}&from=-7", cookie), ("group=any", bearer)):
        async with daphne.stream(query, headers) as stream:
            assert (await stream.next()).name == "sse.open"
    async with daphne.stream("group=refused", cookie) as refused:
        assert refused.response.status_code == 403
    closed = eventually(
        lambda: (found := [r for r in logged(daphne) if " closed" in r["message"]])[1:] and found
    )
    assert sorted(record["sse_user"] for record in closed) == ["1", "token:1"]
    text = daphne.text()
    assert "MAY_LISTEN" in text
    for secret in (key, grant, token, "from=-7"):
        assert secret not in text


def test_every_record_of_the_app_has_fields() -> None:
    found = 0
    for path in Path(inspect.getfile(sse_app)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "logger" and node.func.attr in LEVELS:
                given = [keyword.value for keyword in node.keywords if keyword.arg == "extra"]
                assert given, f"{path.name}:{node.lineno} has no extra=log_fields(…)"
                assert "log_fields(" in ast.unparse(given[0])
                found += 1
    assert found > 40


def test_the_documented_fields_are_those_there_are() -> None:
    section = PAGE.read_text().split("\n## Logs\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = set(re.findall(r"`(sse_\w+)`", " ".join(rows)))
    fields = {f"sse_{name}" for name in inspect.signature(log_fields).parameters}
    assert documented == fields | {"sse_process"}


def test_fields_are_what_a_formatter_can_write() -> None:
    example = PAGE.read_text()
    names: dict[str, Any] = {}
    exec(re.search(r"^(LOGGING = \{.*?^\})$", example, re.MULTILINE | re.DOTALL)[1], names)  # type: ignore[index]
    written = StringIO()
    handler = logging.StreamHandler(written)
    formatter = dict(names["LOGGING"]["formatters"]["json"])
    module, _, kind = formatter.pop("()").rpartition(".")
    handler.setFormatter(
        getattr(__import__(module, fromlist=[kind]), kind)(formatter["format"], style="{")
    )
    logger = logging.getLogger("sse_app")
    logger.addHandler(handler)
    try:
        logger.warning(
            "It failed: %r",
            ValueError("x"),
            extra=log_fields(
                stream="a1",
                user="1",
                groups={"b", "a"},
                events=3,
                seconds=1.23456,
                error=ValueError(),
            ),
        )
    finally:
        logger.removeHandler(handler)
    record = json.loads(written.getvalue())
    assert record["message"] == "It failed: ValueError('x')"
    assert {key: value for key, value in record.items() if key.startswith("sse_")} == {
        "sse_process": process_name(),
        "sse_stream": "a1",
        "sse_user": "1",
        "sse_groups": ["a", "b"],
        "sse_events": 3,
        "sse_seconds": 1.235,
        "sse_error": "ValueError",
    }
