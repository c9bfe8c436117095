"""Policies that tests name in `SSE_APP`."""

from __future__ import annotations

import asyncio
import threading
from typing import Any


def by_permission(user: Any, group: str, request: Any) -> bool:
    """`team.<name>` is for members of the Django group of that name, `staff` for staff."""
    kind, _, name = group.partition(".")
    if kind == "team":
        return bool(user.is_authenticated and user.groups.filter(name=name).exists())
    if kind == "perm":
        return bool(user.has_perm("project.view_order"))
    return bool(group == "staff" and user.is_staff)


async def by_permission_async(user: Any, group: str, request: Any) -> bool:
    """The same, from async code."""
    from channels.db import database_sync_to_async

    return bool(await database_sync_to_async(by_permission)(user, group, request))


gate = threading.Event()
asked = threading.Event()


async def held(user: Any, group: str, request: Any) -> bool:
    """Permit it, once the test opens the gate."""
    asked.set()
    return await asyncio.to_thread(gate.wait, 20)


async def decided_and_held(user: Any, group: str, request: Any) -> bool:
    """As `by_permission()`, but the answer waits until the test opens the gate."""
    allowed = await by_permission_async(user, group, request)
    await held(user, group, request)
    return allowed


def raising(user: Any, group: str, request: Any) -> bool:
    """A policy with a bug."""
    raise RuntimeError("on purpose")


async def slow(user: Any, group: str, request: Any) -> bool:
    """A policy that takes its time, `slow.<seconds>`."""
    await asyncio.sleep(float(group.rpartition(".")[2]))
    return True


failing = threading.Event()
refusing = threading.Event()


def at_times(user: Any, group: str, request: Any) -> bool:
    """Permit it, but fail or refuse while the test wants that."""
    if failing.is_set():
        raise RuntimeError("on purpose")
    return not refusing.is_set()
