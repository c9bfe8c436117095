"""Functions that give states, for a server that a test has import this module."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from project.models import Order
from sse_app import publish, snapshot

from .patience import PATIENCE

#: How often each group's state was read.
calls: Counter[str] = Counter()
#: Reads of `orders.slow.*` wait for it.
gate = threading.Event()


@snapshot("orders", seconds=0.02)
def totals(group: str) -> dict[int, int]:
    calls[group] += 1
    return {pk: int(total) for pk, total in Order.objects.values_list("pk", "total")}


@snapshot("orders.now.*", seconds=0)
def plain(group: str) -> dict[str, Any]:
    calls[group] += 1
    return {"of": group, "call": calls[group]}


@snapshot("orders.now.during", seconds=0)
def during(group: str) -> int:
    """Something is published while it reads."""
    calls[group] += 1
    publish(group, "n", calls[group])
    return calls[group]


@snapshot("orders.slow.*", seconds=60)
def slow(group: str) -> str:
    calls[group] += 1
    assert gate.wait(PATIENCE)
    return "<b>slow</b>"


@snapshot("orders.stuck.*", seconds=60)
def stuck(group: str) -> str:
    """Hangs for ever, with a connection to the database."""
    calls[group] += 1
    Order.objects.count()
    threading.Event().wait()
    return ""


@snapshot("orders.async")
async def awaited(group: str) -> list[int]:
    return [1, 2]


@snapshot("orders.failing")
def failing(group: str) -> None:
    raise RuntimeError("on purpose")


@snapshot("orders.large")
def large(group: str) -> str:
    return "x" * 2_000_000
