"""The plain ASGI transport."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from sse_app.delivery.transports import asgi
from sse_app.delivery.transports.asgi import AsgiTransport
from sse_app.delivery.transports.servers import own_send

from ..support.patience import PATIENCE


class Server:
    """Takes what is sent; fails once the client is gone, as some servers do."""

    def __init__(self) -> None:
        self.sent = b""
        self.ended = self.gone = False

    async def send(self, message: Any) -> None:
        if self.gone:
            raise OSError("the client has gone")
        self.sent += message["body"]
        self.ended = not message["more_body"]

    async def receive(self) -> Any:
        await asyncio.Future()


async def test_what_is_written_right_after_a_send_leaves_too() -> None:
    server = Server()
    transport = AsgiTransport(server.send, server.receive)
    transport.write(b"a")

    async def in_the_same_turn() -> None:
        transport.write(b"b")

    await asyncio.create_task(in_the_same_turn())
    await transport.drained()
    assert server.sent == b"ab"


async def test_a_farewell_right_after_a_send_is_not_lost() -> None:
    server = Server()
    transport = AsgiTransport(server.send, server.receive)
    transport.write(b"a")

    async def in_the_same_turn() -> None:
        transport.write(b"farewell")
        await transport.finish()

    await asyncio.create_task(in_the_same_turn())
    assert (server.sent, server.ended) == (b"afarewell", True)


async def test_the_end_of_a_response_whose_client_has_gone_is_no_error() -> None:
    server = Server()
    server.gone = True
    await AsgiTransport(server.send, server.receive).finish()


async def test_a_failing_send_is_told_once() -> None:
    server = Server()
    server.gone = True
    transport = AsgiTransport(server.send, server.receive)
    told: asyncio.Queue[str] = asyncio.Queue()
    transport.on_broken = told.put_nowait
    transport.write(b"a")
    assert await asyncio.wait_for(told.get(), PATIENCE) == "broken"
    assert told.empty()
    await transport.finish()


async def test_an_end_that_nobody_takes_is_given_up_and_the_connection_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hangs(message: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asgi, "END_SECONDS", 0.01)
    dropped = asyncio.Event()
    for write in (True, False):
        dropped.clear()
        transport = AsgiTransport(hangs, Server().receive, dropped.set)
        if write:
            transport.write(b"a")
        await asyncio.wait_for(transport.finish(), PATIENCE)
        assert dropped.is_set()


async def test_a_server_that_cancels_the_end_gets_the_connection_dropped() -> None:
    began, dropped = asyncio.Event(), asyncio.Event()

    async def hangs(message: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    ending = asyncio.create_task(AsgiTransport(hangs, Server().receive, dropped.set).finish())
    await began.wait()
    ending.cancel()
    await asyncio.wait([ending])
    assert ending.cancelled()
    assert dropped.is_set()


async def test_a_body_is_no_longer_than_what_a_slow_reader_is_seen_to_take() -> None:
    sizes: list[int] = []

    async def send(message: Any) -> None:
        sizes.append(len(message["body"]))

    transport = AsgiTransport(send, Server().receive)
    for _ in range(5):
        transport.write(b"x" * 30_000)
    await transport.drained()
    assert sizes == [60_000, 60_000, 30_000]
    assert transport.ready


def wrapped_by_closure(send: Any) -> Any:
    async def own(message: Any) -> None:
        await send(message)

    return own


def wrapped_by_partial(send: Any) -> Any:
    async def own(send: Any, message: Any) -> None:
        await send(message)

    return partial(own, send)


async def test_the_servers_own_send_is_found_behind_wrappers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server()
    monkeypatch.setattr(Server, "__module__", "uvicorn.protocols")
    for wrap in (wrapped_by_closure, wrapped_by_partial):
        assert own_send(wrap(wrap(server.send))) == server.send
    assert own_send(server.send) == server.send
    # A method may change what is sent, and `receive` belongs to the server, too.
    hidden = wrapped_by_closure(Hiding(server.send).send)
    assert own_send(hidden) is hidden
    receiving = wrapped_by_closure(server.receive)
    assert own_send(receiving) is receiving


class Hiding:
    def __init__(self, send: Any) -> None:
        self.inner = send

    async def send(self, message: Any) -> None:
        await self.inner(message)


def test_a_wrapper_that_refers_to_itself_is_searched_once() -> None:
    def endless() -> Any:
        return endless

    assert own_send(endless) is endless
