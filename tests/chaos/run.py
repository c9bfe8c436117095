"""One run: start everything, let the plan's misfortunes happen, let the clients catch up, judge."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from .clients import Client, Received
from .parts import PATIENCE, Notes, read_notes
from .stores import Log, open_store
from .verdict import Verdict, checks_outlived, judge, latest_delivery, lost
from .world import GROUPS, Plan, World

#: The last event of each group, which the channel layer carries to nobody and no later one shows
#: to be missing: only the check of the heads finds it. And, where a transaction can have it, one
#: more whose publisher dies before it is numbered: only the sweep finds that.
LAST_WORDS: Final = f"""
import os, time
from channels.layers import get_channel_layer
from django.db import transaction
from sse_app import publish
from sse_app.eventlog import event_log

def note(answer, data):
    print(answer, began, time.monotonic(), group, data, flush=True)

def die():
    note("left", "orphan:1")
    os._exit(0)

began = time.monotonic()
get_channel_layer().drop = 1.0
for group in {GROUPS!r}:
    publish(group, group, f"last-{{group}}:1")
    note("ok", f"last-{{group}}:1")
if event_log().alias:
    with transaction.atomic():
        transaction.on_commit(die)
        publish(group, group, "orphan:1")
"""


#: A client may have so many events that came into the log after it was read.
NEWER: Final = 100


@dataclass
class Report:
    """What came of a plan."""

    plan: Plan
    seconds: float
    figures: dict[str, Any]
    verdict: Verdict

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.verdict.faults


async def run(plan: Plan, folder: Path) -> Report:
    """Carry out `plan` with its files in `folder`; nothing of it runs on afterwards."""
    began = time.monotonic()
    with open_store(plan.log, folder) as store:
        world = World(plan, folder, store)
        try:
            await world.begin()
            stalled = await _rage(world)
            await world.quiet()
            log = await _settle(world)
        finally:
            await world.end()
    notes = read_notes(folder)
    verdict = judge(log, notes, world.clients, world.forks)
    verdict.add("stalled", "the run", stalled)
    for server in world.servers:
        lines = server.text().splitlines()
        errors = [line for line in lines if " ERROR sse_app" in line and not _is_told(line, plan)]
        verdict.add("errors logged", f"server {server.port}", errors)
    seconds = time.monotonic() - began
    return Report(plan, seconds, _figures(world, log, notes, verdict), verdict)


def _is_told(line: str, plan: Plan) -> bool:
    """Whether a line of a server's log says that an event log went back, as it did."""
    return bool(plan.forks) and "new epoch" in line


async def _rage(world: World) -> list[str]:
    """Let everything happen that the plan says; return what was waited for in vain."""
    plan = world.plan
    kinds: dict[Callable[[], Awaitable[None]], int] = {
        world.kill_server: plan.kills,
        world.restart_valkey: plan.restarts,
        world.freeze_valkey: plan.freezes,
        world.kill_publisher: plan.publisher_kills,
        world.go_back: plan.forks,
        world.fall_silent: plan.silences,
        world.freeze_session: plan.session_freezes,
    }
    acts = [act for act, count in kinds.items() for _ in range(count)]
    world.random.shuffle(acts)
    try:
        for number, act in enumerate(acts):
            if number == len(acts) // 2:
                world.let_in_the_late()
            await act()
            await _some_deliveries(world)
            print(f"\r{plan.log}: {number + 1}/{len(acts)} ", end="", file=sys.stderr)
        world.let_in_the_late()
        await _enough_is_acknowledged(world)
    except TimeoutError as stalled:
        return [str(stalled)]
    finally:
        print(file=sys.stderr)
        await world.repaired()
    return []


async def _some_deliveries(world: World) -> None:
    """Return when as many events were delivered as there are clients, and a little later."""
    goal = world.deliveries + len(world.clients)
    await world.until(lambda: world.deliveries >= goal, "events are delivered")
    await asyncio.sleep(world.random.uniform(0, 0.5))


async def _enough_is_acknowledged(world: World) -> None:
    """Return when there are as many events as the plan says; on a busy machine that takes long."""

    def count() -> int:
        return read_notes(world.folder).count

    while (before := count()) < world.plan.events:
        await world.until(lambda before=before: count() > before, "more is acknowledged")


async def _settle(world: World) -> Log:
    """Return the log once it has all that was acknowledged and every client has all of it.

    If they don't get there in time, return it as it is.
    """
    server, deadline = world.servers[0], time.monotonic() + PATIENCE
    last = await asyncio.to_thread(server.shell, LAST_WORDS)
    (world.folder / "last.notes").write_text(last)
    notes = read_notes(world.folder)
    log: Log = {}
    while True:
        before, log = log, await asyncio.to_thread(world.store.read)
        try:
            everything = partial(_all_have, log, notes, world.clients)
            left = deadline - time.monotonic()
            await world.until(everything, "all clients have all of the log", left)
        except TimeoutError:
            return log
        if (log == before and not lost(log, notes, world.forks)) or time.monotonic() > deadline:
            return log


def _all_have(log: Log, notes: Notes, clients: Sequence[Client]) -> bool:
    return all(
        _is_at_the_end(client.received[group], log[group][-1][1], notes)
        for client in clients
        for group in client.groups
    )


def _is_at_the_end(got: Received, last: str, notes: Notes) -> bool:
    """Whether a client has the last event of a log as it was read, or was reset after that."""
    was_reset = got.resets and got.resets[-1].at > notes.at.get(last, float("inf"))
    return last in got.data[-NEWER:] or bool(was_reset)


def _figures(world: World, log: Log, notes: Notes, verdict: Verdict) -> dict[str, Any]:
    clients = world.clients
    figures: dict[str, Any] = {
        "publishers killed": sum(each.starts for each in world.publishers) - world.plan.publishers,
        "connections": sum(len(client.opened) for client in clients),
        "answered sse.busy": sum(client.busy for client in clients),
        "not answered in time": sum(client.unanswered for client in clients),
        "acknowledged": notes.count,
        "in the log": sum(map(len, log.values())),
        "deliveries": world.deliveries,
        "delivered": verdict.delivered,
        "told": verdict.told,
        "not knowable": verdict.unknowable,
        "latest until told, s": verdict.until_told,
        "latest, in checks": latest_delivery(notes, clients) / world.plan.check_interval,
    }
    if world.plan.observed:
        outlived = checks_outlived(log, clients, world.facts)
        figures["before a check"], figures["by a check"], *later = outlived
        figures["later than a check"] = sum(later)
    return figures
