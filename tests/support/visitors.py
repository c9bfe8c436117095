"""Signed-in users of a real server, and code that runs in the server's process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from .patience import PATIENCE
from .servers import Daphne, StreamReader

POLICY = "tests.policies.by_permission"
NEVER = 600


class Visitor:
    """Somebody with a session of their own, whose requests run beside each other."""

    def __init__(self, daphne: Daphne, name: str) -> None:
        self.daphne = daphne
        self.name = name
        limits = httpx.Limits(max_connections=None)
        self.client = httpx.AsyncClient(base_url=daphne.url, timeout=PATIENCE, limits=limits)
        self.pk = 0

    async def sign_in(self) -> Visitor:
        answer = await self.client.post("/test/login/", data={"name": self.name})
        self.pk = answer.json()["pk"]
        return self

    @asynccontextmanager
    async def stream(self, query: str) -> AsyncIterator[StreamReader]:
        url = query if query.startswith("/") else f"/events/?{query}"
        async with self.client.stream("GET", url) as response:
            reader = StreamReader(response)
            assert response.status_code == 200
            assert (await reader.next()).name == "sse.open"
            yield reader

    async def status(self, url: str) -> int:
        async with self.client.stream("GET", url) as response:
            return response.status_code

    async def page(self, *groups: str) -> str:
        quoted = " ".join(f'"{group}"' for group in groups)
        params = {"tag": f"{{% sse_url {quoted} %}}"}
        return (await self.client.get("/test/page/", params=params)).text


async def run(daphne: Daphne, code: str) -> Any:
    """Run code in the server's process."""
    async with httpx.AsyncClient(base_url=daphne.url, timeout=PATIENCE) as client:
        answer = await client.post("/test/run/", data={"code": code})
    assert answer.status_code == 200, answer.text[:300]
    return answer.json()["result"]


async def publish(daphne: Daphne, group: str, data: str) -> None:
    await run(daphne, f"from sse_app import publish\npublish({group!r}, 'n', {data!r})")


async def farewell(stream: StreamReader) -> tuple[str, int]:
    *_, last = await stream.until_end()
    assert last.name == "sse.close"
    return last.json()["reason"], stream.parser.retry or 0


USER = "from django.contrib.auth.models import Group, User\nuser = User.objects.get(pk={pk})\n"
