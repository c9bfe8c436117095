"""Python in the documentation is run, with what a page takes for granted; or it says why not.

A block that can't run has a comment right above it: `<!-- not run: needs a Redis -->`. README's
quick start is run by test_newcomer.py, and the clients of docs/delivery/clients.md by
test_clients.py.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import CodeType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.apps import apps
from django.contrib.auth.models import User
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.test import RequestFactory
from django.urls import path

import sse_app
from project.models import Order
from project.settings import BASE_DIR, DATABASES
from sse_app import Event
from sse_app.delivery.subscriber import subscribe
from sse_app.publishing import inbox

from ..support.documented import Block, blocks
from ..support.patience import PATIENCE

BLOCKS = list(blocks("python"))
RUN = [block for block in BLOCKS if not block.why]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_it_compiles(block: Block) -> None:
    compiled(block)


def test_most_of_it_is_run() -> None:
    here_or_there = [block for block in BLOCKS if not block.why or "runs it" in block.why]
    assert len(here_or_there) > len(BLOCKS) * 0.8, "too much of it is marked `not run`"


def compiled(block: Block) -> CodeType:
    """A block may `await` at its top, as in the asynchronous shell."""
    # The lines of the page, for tracebacks.
    code = "\n" * (block.line - 1) + block.code
    return compile(code, block.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def taken_for_granted(user: User) -> dict[str, Any]:
    """The names that pages use without saying where they come from."""
    position = sse_app.cursor("orders")
    order = Order.objects.create(customer="Ann", item="A lamp", total=20, status="paid")
    return {
        **{name: getattr(sse_app, name) for name in sse_app.__all__},
        "BASE_DIR": BASE_DIR,
        "DATABASES": {alias: dict(database) for alias, database in DATABASES.items()},
        "HttpResponse": HttpResponse,
        "Message": apps.get_model("project", "ChatMessage"),
        "Order": Order,
        "User": User,
        "asyncio": asyncio,
        "models": models,
        "order": order,
        "path": path,
        "position": position,
        "render": render,
        "request": RequestFactory().get("/"),
        "rows": [
            SimpleNamespace(name="first", save=list),
            SimpleNamespace(name="second", save=list),
        ],
        "sync_to_async": sync_to_async,
        "user": user,
    }


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("block", RUN, ids=str)
def test_it_runs(block: Block) -> None:
    # A block may register a handler, and the next one the same; another imports `subscribe` itself.
    with patch.dict(inbox._handlers), patch.dict(vars(sse_app), subscribe=one_event):
        names = taken_for_granted(User.objects.create_user("ann"))
        ran = eval(compiled(block), names)
        if inspect.iscoroutine(ran):
            async_to_sync(finish)(ran)
        for view in ("board", "room"):
            if view in block.code and callable(names.get(view)):
                rendered(names, view)


def rendered(names: dict[str, Any], view: str) -> None:
    """Call a view of the documentation, with the name of its template noted and not looked up."""
    told: dict[str, Any] = {}

    def note(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
        told.update(context)
        return HttpResponse(template)

    names["render"] = note
    wanted = len(inspect.signature(names[view]).parameters) - 1
    names[view](names["request"], *["lobby"][:wanted])
    assert told["position"], "a position that {% sse_stream %} can go on from"


@asynccontextmanager
async def one_event(*groups: str, **options: Any) -> AsyncIterator[AsyncIterator[Event]]:
    """As `subscribe()`, but what a block reads from ends after one event, and so the block ends."""
    async with subscribe(*groups, **options) as events:

        async def one() -> AsyncIterator[Event]:
            yield await anext(events)

        yield one()


async def finish(coroutine: Any) -> None:
    """Run a block that awaits; one that listens waits for what was published after `position`."""
    async with asyncio.timeout(PATIENCE):
        await coroutine
