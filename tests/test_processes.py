"""The rows of the server processes: what they say, who keeps them, and when they are gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from .conftest import Daphne, Server, eventually
from .sleepers import run

ROWS = """
import json
from sse_app.models import ServerProcess
result = [
    [row.name, row.pid, row.host, row.report, row.all_streams()]
    for row in ServerProcess.objects.all()
]
print(json.dumps(result))
"""


def rows(server: Server) -> dict[int, tuple[str, Any, Any]]:
    """The rows by process id, as another process reads them: name, report, streams."""
    return {pid: (name, said, streams) for name, pid, _, said, streams in run(server, ROWS)}


def pid_of(server: Server) -> int:
    return int(run(server, "import os\nresult = os.getpid()"))


def said(server: Server, check: Callable[[Any], object] = bool) -> Any:
    """What the process says, once it is as `check` wants it."""
    pid = pid_of(server)

    def found() -> Any:
        report = rows(server).get(pid, ("", None, None))[1]
        return report and check(report) and report

    return eventually(found, f"{rows(server)}")


def watch(server: Server) -> None:
    run(server, "from sse_app import processes\nprocesses.watch(20)")


async def test_a_process_says_how_it_is(daphne: Daphne) -> None:
    async with daphne.stream("group=orders&group=chat.a") as stream:
        await stream.next()
        await asyncio.to_thread(daphne.publish, "orders", "n", "1")
        await stream.next()
        await asyncio.to_thread(watch, daphne)
        report = await asyncio.to_thread(said, daphne, lambda report: report["open"]["live"])
    assert abs(report.pop("at") - time.time()) < 10
    assert report.pop("server").startswith("daphne 4.")
    assert 0 <= report["health"].pop("loop_lag") < 5
    counts = report.pop("counts")
    assert counts["delivered"] == 1
    assert counts["bytes"] > 100
    assert report == {
        "health": {"hub": True, "layer": "ok", "draining": False},
        "open": {"live": 1, "catching up": 0, "lagging": 0, "held": 0},
        "waiting": {"bytes": 0, "events": 0},
        "groups": {
            "orders": {"subscribers": 1, "published": 1, "delivered": 1},
            "chat.a": {"subscribers": 1, "published": 0, "delivered": 0},
        },
    }
