"""Single streams: made without a server, read to their end, and ended."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from django.contrib.auth.models import User

from sse_app.access import readers
from sse_app.access.readers import Reader
from sse_app.delivery.hub import get_hub

from .readers import new_reader
from .servers import Server, StreamReader, eventually
from .sleepers import run


@pytest.fixture
async def listening() -> AsyncIterator[Reader]:
    """A stream of ann, whose primary key is 1, that is told of replies and revocations."""
    reader = new_reader(get_hub(), User(pk=1), session_key="key")
    assert readers.enter(reader, readers.revocation_count())
    yield reader
    readers.leave(reader)
    await reader.stream.hub.close()


async def raw(stream: StreamReader, until: bytes) -> bytes:
    received = b""
    async for chunk in stream._chunks:
        received += chunk
        if until in received and received.endswith(b"\n\n"):
            return received
    raise AssertionError("it ended")


END = """
from sse_app.operations.reports import streams
open = [stream for stream in streams() if stream.close_reason is None]
for stream in open:
    stream.hub.loop.call_soon_threadsafe(stream.close, "{reason}")
result = len(open)
"""


def end_stream(server: Server, reason: str = "age") -> None:
    """End the one stream that is open or is about to be; a stream that already ends is another."""
    code = END.format(reason=reason)
    eventually(lambda: run(server, code) == 1, "nobody came")
