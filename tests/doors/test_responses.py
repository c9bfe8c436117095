"""`EventStreamResponse`: by itself, and on real servers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import httpx
import pytest
from django.middleware.gzip import GZipMiddleware
from django.test import RequestFactory

from sse_app.responses import Close, EventStreamResponse

from ..support.other_servers import Uvicorn
from ..support.parser import Parser
from ..support.patience import PATIENCE
from ..support.servers import Daphne, Server, StreamReader, eventually
from ..support.sleepers import run


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
        ("sse.close", '{"reason":"end"}'),
    ]
    assert parser.retry == 3_600_000
    assert response["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response["X-Accel-Buffering"] == "no"


async def test_what_surrounds_a_yield_is_left_in_the_task_in_which_it_was_entered(
    settings: Any,
) -> None:
    settings.SSE_APP = {"HEARTBEAT": 0.01}
    scope = ContextVar("scope", default="outer")
    tasks = set()

    async def events() -> AsyncIterator[Any]:
        token = scope.set("inner")
        try:
            async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
                for number in range(3):
                    tasks.add(asyncio.current_task())
                    yield await group.create_task(asyncio.sleep(0.03, number))
        finally:
            tasks.add(asyncio.current_task())
            scope.reset(token)

    parser = await _read(EventStreamResponse(events()))
    assert [event.data for event in parser.events] == ["0", "1", "2", '{"reason":"end"}']
    assert len(tasks) == 1
    leaving = aiter(EventStreamResponse(events()))
    tasks.clear()
    await anext(leaving)
    await leaving.aclose()  # type: ignore[attr-defined]
    assert len(tasks) == 1
    assert scope.get() == "outer"


async def test_a_timeout_of_an_iterable_ends_the_iterable_only() -> None:
    async def events() -> AsyncIterator[Any]:
        try:
            async with asyncio.timeout(0.01):
                yield "first"
                await asyncio.Event().wait()
        except TimeoutError:
            yield "late"

    parser = await _read(EventStreamResponse(events()))
    assert [event.data for event in parser.events] == ["first", "late", '{"reason":"end"}']


async def test_an_item_is_read_once_the_one_before_was_taken() -> None:
    read = []

    async def events() -> AsyncIterator[Any]:
        for number in range(3):
            read.append(number)
            yield number

    blocks = aiter(EventStreamResponse(events()))
    for number in range(3):
        await anext(blocks)
        await asyncio.sleep(0)
        assert read == [*range(number + 1)]


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
    assert [e.data for e in parser.events][:-1] == ["done"]


@pytest.mark.parametrize(
    "bad",
    [
        RuntimeError("on purpose"),
        ("bad name", 1),
        object(),
        *(("n", 1, id) for id in ("a\0", "a\nb", "a\rb", "é", "a ", "", 7, "x" * 1025)),
    ],
)
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
    assert [e.data for e in parser.events] == ["before", '{"reason":"error"}']
    assert parser.retry is not None
    assert 2_000 <= parser.retry <= 5_000
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
    await asyncio.wait_for(closed.wait(), PATIENCE)


async def test_a_close_says_farewell_and_ends_the_stream() -> None:
    async def events() -> AsyncIterator[Any]:
        yield "n", 1
        yield Close("auth")
        yield "n", 2

    text = b"".join([block async for block in EventStreamResponse(events())]).decode()
    assert text.partition("\n")[2] == (
        'event: n\ndata: 1\n\nretry: 3600000\nevent: sse.close\ndata: {"reason":"auth"}\n\n'
    )


@pytest.mark.parametrize(
    ("query", "headers", "after"),
    [
        ("", {}, ""),
        ("?last_event_id=3", {}, "3"),
        ("?lastEventId=3", {}, "3"),
        ("?last_event_id=3", {"Last-Event-ID": "4"}, "4"),
        ("?last_event_id=a%00", {}, ""),
        ("?last_event_id=%C3%A9", {}, ""),
        ("?last_event_id=" + "x" * 1025, {}, ""),
    ],
)
async def test_a_callable_is_told_where_the_client_was(
    query: str, headers: dict[str, str], after: str
) -> None:
    async def events(after: str) -> AsyncIterator[Any]:
        yield "after", after, "next"

    request = RequestFactory().get(f"/{query}", headers=headers)
    parser = await _read(EventStreamResponse(events, request))
    assert [(e.name, e.data, e.id) for e in parser.events] == [
        ("after", after, "next"),
        ("sse.close", '{"reason":"end"}', "next"),
    ]


async def test_the_first_event_says_when_to_come_back_after_a_break() -> None:
    async def events() -> AsyncIterator[Any]:
        yield "first"

    chunks = [chunk async for chunk in EventStreamResponse(events())]
    assert len(chunks) == 2
    assert chunks[0].startswith(b"retry: ")
    assert chunks[0].endswith(b"\ndata: first\n\n")


async def test_the_farewell_has_the_last_id_that_was_given() -> None:
    async def events() -> AsyncIterator[Any]:
        yield "n", 1, "a"
        yield "n", 2

    chunks = [chunk async for chunk in EventStreamResponse(events())]
    assert b"\nid: a\n" in chunks[0]
    assert b"id: " not in chunks[1]
    assert b"\nevent: sse.close\n" in chunks[2]
    assert chunks[2].endswith(b"\nid: a\n\n")


async def test_nothing_is_begun_for_a_head_request() -> None:
    begun = []

    async def events(after: str) -> AsyncIterator[Any]:
        begun.append(after)
        yield await asyncio.Event().wait()

    await asyncio.wait_for(_read(EventStreamResponse(events, RequestFactory().head("/"))), PATIENCE)
    assert begun == []


def test_what_can_not_be_streamed_is_refused_before_the_response_begins() -> None:
    async def awaited(after: str) -> list[int]:
        return []

    def listed(after: str) -> list[int]:
        return []

    request = RequestFactory().get("/")
    for events, of in ((listed, request), ([1], request), (awaited, None)):
        with pytest.raises(TypeError, match="async iterable"):
            EventStreamResponse(events, of)  # type: ignore[arg-type]


of_each_server = pytest.mark.parametrize("kind", [Daphne, Uvicorn], ids=lambda kind: kind.module)


@of_each_server
async def test_on_a_server_it_resumes_fails_and_ends(
    make_server: Callable[..., Server], kind: type[Server]
) -> None:
    server = await asyncio.to_thread(make_server, kind)
    url = f"{server.url}/test/resuming/"
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        for query, reason, most in (("?fail=1", "error", 5_000), ("", "end", 3_600_000)):
            async with client.stream(
                "GET", url + query, headers={"Last-Event-ID": "1"}
            ) as response:
                reader = StreamReader(response)
                events = await reader.until_end()
            assert [(e.name, e.data, e.id) for e in events] == [
                ("count", "2", "2"),
                ("count", "3", "3"),
                ("sse.close", f'{{"reason":"{reason}"}}', "3"),
            ]
            assert reader.parser.retry is not None
            assert reader.parser.retry <= most
        head = await client.head(url)
        assert (head.status_code, head.content) == (200, b"")


@of_each_server
async def test_on_a_server_what_waits_for_ever_is_cancelled_when_the_reader_leaves(
    make_server: Callable[..., Server], kind: type[Server]
) -> None:
    server = await asyncio.to_thread(make_server, kind, HEARTBEAT=600)
    url = f"{server.url}/test/resuming/?wait=1&reader=ann"
    async with httpx.AsyncClient(timeout=PATIENCE) as client, client.stream("GET", url) as response:
        reader = StreamReader(response)
        assert [event.data for event in await reader.take(3)] == ["1", "2", "3"]
    code = "from tests.urls import LEFT\nresult = LEFT"
    await asyncio.to_thread(eventually, lambda: run(server, code) == ["ann"], within=10)


def test_gzip_leaves_a_stream_alone() -> None:
    """Browsers show the first of several compressed parts, which would be the first event."""

    async def events() -> AsyncIterator[Any]:
        yield {"n": 1}

    request = RequestFactory().get("/", headers={"Accept-Encoding": "gzip"})
    response = GZipMiddleware(lambda _: EventStreamResponse(events()))(request)
    assert response["Content-Encoding"] == "identity"
