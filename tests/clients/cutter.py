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
        #: Who was cut.
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
        up, down = await asyncio.open_connection("127.0.0.1", self._upstream)
        names: list[str] = []
        asking = asyncio.create_task(self._ask(reader, down, names))
        try:
            await self._answer(names, up, writer)
        finally:
            asking.cancel()
            down.close()
            writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, down: asyncio.StreamWriter, names: list[str]
    ) -> None:
        while chunk := await reader.read(65536):
            names += [name.decode() for name in re.findall(rb"[?&]client=([\w-]+) HTTP", chunk)]
            down.write(chunk)
        down.close()

    async def _answer(
        self, names: list[str], up: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        sent = b""
        while chunk := await up.read(65536):
            sent += chunk
            end = sent.find(self._mark) + self._after
            if self._mark in sent and len(sent) >= end and not self.cut.issuperset(names):
                writer.write(chunk[: len(chunk) - (len(sent) - end)])
                await writer.drain()
                self.cut.update(names)
                return
            writer.write(chunk)
            await writer.drain()
