"""A TCP proxy that cuts each client's connection once, in the middle of an event."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Self


class Cutter:
    """Forwards to `port`; closes a connection `after` bytes behind the first `mark` on it.

    A client is known by `client=` in the URL that it asks for, and is cut once.
    """

    def __init__(self, port: int, mark: bytes, after: int) -> None:
        self._upstream = port
        self._mark = mark
        self._after = after
        #: How many connections each client has made.
        self.connections: dict[str, int] = {}
        self.cut: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        serving = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.close()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"client=([\w-]+)", head)
        name = found[1].decode() if found else ""
        self.connections[name] = self.connections.get(name, 0) + 1
        up, down = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            down.write(head)
            await self._forward(name, up, writer)
        finally:
            down.close()
            writer.close()

    async def _forward(
        self, name: str, up: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        sent = b""
        while chunk := await up.read(65536):
            sent += chunk
            end = sent.find(self._mark) + self._after
            if self._mark in sent and name not in self.cut and len(sent) >= end:
                writer.write(chunk[: len(chunk) - (len(sent) - end)])
                await writer.drain()
                self.cut.add(name)
                return
            writer.write(chunk)
            await writer.drain()
