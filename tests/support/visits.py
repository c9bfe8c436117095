"""Users who open and close streams of a room, for presence."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import httpx

from .servers import Server, StreamReader
from .sleepers import run

ROOM = "chat.room"
MEMBERS = f"from sse_app import presence\nresult = [m.name for m in presence.members({ROOM!r})]"


def members(server: Server) -> Any:
    return run(server, MEMBERS)


def cookie_of(server: Server, name: str) -> dict[str, str]:
    answer = httpx.post(f"{server.url}/test/login/", data={"name": name})
    return {"Cookie": f"sessionid={answer.cookies['sessionid']}"}


class Visit:
    """The streams of some users, opened and closed one by one."""

    def __init__(self) -> None:
        self.open: list[AsyncExitStack] = []
        self._streams: list[StreamReader] = []  # One that nobody holds is closed.

    async def enter(self, server: Server, headers: dict[str, str], query: str = "") -> StreamReader:
        stack = AsyncExitStack()
        self.open.append(stack)
        stream = await stack.enter_async_context(
            server.stream(query or f"group={ROOM}", headers=headers)
        )
        self._streams.append(stream)
        assert (await stream.next()).name == "sse.open"
        return stream

    async def leave(self, *which: int) -> None:
        for number in which or range(len(self.open)):
            await self.open[number].aclose()
