"""`EventStreamResponse` by itself, without a server around it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sse_app.responses import Close, EventStreamResponse

from .parser import Parser


async def _read(response: EventStreamResponse) -> Parser:
    parser = Parser()
    async for chunk in response:
        parser.feed(chunk)
    return parser


async def test_pairs_are_named_events_and_the_rest_is_a_message() -> None:
    async def events() -> AsyncIterator[Any]:
        yield "tick", {"n": 1}
        yield "two\nlines"
        yield {"n": 2}

    response = EventStreamResponse(events())
    parser = await _read(response)
    assert [(e.name, e.data) for e in parser.events] == [
        ("tick", '{"n":1}'),
        ("message", "two\nlines"),
        ("message", '{"n":2}'),
    ]
    assert response["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response["X-Accel-Buffering"] == "no"


async def test_silence_is_filled_with_heartbeats(settings: Any) -> None:
    settings.SSE_APP = {"HEARTBEAT": 0.01}
    beats = asyncio.Event()

    async def events() -> AsyncIterator[Any]:
        await beats.wait()
        yield "done"

    parser = Parser()
    async for chunk in EventStreamResponse(events()):
        parser.feed(chunk)
        if parser.comments == 3:
            beats.set()
    assert [e.data for e in parser.events] == ["done"]


@pytest.mark.parametrize("bad", [RuntimeError("on purpose"), ("bad name", 1), object()])
async def test_a_failure_is_logged_and_ends_the_stream_cleanly(
    bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def events() -> AsyncIterator[Any]:
        yield "before"
        if isinstance(bad, Exception):
            raise bad
        yield bad

    with caplog.at_level(logging.ERROR, "sse_app"):
        logging.getLogger("sse_app").addHandler(caplog.handler)
        parser = await _read(EventStreamResponse(events()))
        logging.getLogger("sse_app").removeHandler(caplog.handler)
    assert [e.data for e in parser.events] == ["before"]
    assert "the stream ends here" in caplog.text


async def test_the_iterable_is_closed_when_the_reader_leaves() -> None:
    closed = asyncio.Event()

    async def events() -> AsyncIterator[Any]:
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def reading() -> None:
        await _read(EventStreamResponse(events()))

    task = asyncio.create_task(reading())
    await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(closed.wait(), 5)


async def test_a_close_says_farewell_and_ends_the_stream() -> None:
    async def events() -> AsyncIterator[Any]:
        yield "n", 1
        yield Close("auth")
        yield "n", 2

    text = b"".join([block async for block in EventStreamResponse(events())]).decode()
    assert text == (
        'event: n\ndata: 1\n\nretry: 3600000\nevent: sse.close\ndata: {"reason":"auth"}\n\n'
    )
