"""Clients that arrive at once, each with groups of its own: `python -m benchmarks.arriving`.

One Daphne process with the Redis log and the Redis channel layer. The clock runs until each client
has its first event. A client that gets `sse.busy` in place of `sse.open` was refused.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from collections import Counter
from contextlib import ExitStack
from typing import Final

from .daphne import Daphne
from .servers import machine, servers

#: How many clients, and how many groups each has.
CASES: Final = ((2_000, 1), (20, 20), (1_000, 20))
PATIENCE: Final = 120.0
#: Connections that are being opened at once: the machine's backlog is limited.
OPENING: Final = 500


async def arrive(port: int, client: int, groups: int, opening: asyncio.Semaphore) -> str:
    """Return the name of the first event, with its data if the client was refused."""
    query = "&".join(f"group=own.{client}.{n}" for n in range(groups))
    async with opening:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /events/?{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    text = b""
    while b"event: " not in text or b"\n\n" not in text.partition(b"event: ")[2]:
        chunk = await reader.read(4096)
        if not chunk:
            return "closed"
        text += chunk
    name, data = text.decode().partition("event: ")[2].splitlines()[:2]
    return name if name == "sse.open" else f"{name} {data}"


async def measure(port: int, clients: int, groups: int) -> str:
    """Return the line of the table for so many clients with so many groups each."""
    opening, began = asyncio.Semaphore(OPENING), time.perf_counter()
    async with asyncio.timeout(PATIENCE):
        firsts = await asyncio.gather(
            *(arrive(port, client, groups, opening) for client in range(clients))
        )
    took = time.perf_counter() - began
    others = Counter(first for first in firsts if first != "sse.open")
    return f"| {clients:,} | {groups} | {sum(others.values())} | {took:.1f} | {dict(others)} |"


def main() -> None:
    """Measure each case on a server of its own and print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with ExitStack() as stack:
        found = stack.enter_context(servers())
        print(machine(found))
        print("| clients | groups each | sent away | seconds | why |\n|---:|---:|---:|---:|---|")
        for clients, groups in CASES:
            log = "sse_app.eventlog.RedisEventLog"
            with Daphne(found, "sqlite", redis=True, log=log) as daphne:
                print(asyncio.run(measure(daphne.port, clients, groups)), flush=True)


if __name__ == "__main__":
    main()
