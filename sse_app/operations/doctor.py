"""The examinations of `manage.py sse_doctor`: what is wrong on this machine, and how to fix it.

System checks read the settings. The doctor also tests what runs: whether the channel layer and the
event log answer, clocks agree, and Daphne was started with the right options.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from django.conf import settings as django_settings
from django.core import checks
from django.db import ProgrammingError, connections

from ..access import limits_redis
from ..conf import channel_layer, is_in_memory, settings, site_tag
from ..eventlog import RedisEventLog, event_log
from ..protocol.cursors import START, Position
from ..protocol.events import Event
from ..runtime.callables import in_thread
from . import processes
from .health import GROUP, probe_layer
from .models import HOST

ANSWER_SECONDS: Final = 5.0
#: A larger difference of clocks is an error. A smaller one may be the time of the query.
CLOCK_SECONDS: Final = 2.0
REACH: Final = "Check whether it runs, and whether this machine can connect to it."
#: How many groups a finding names.
MOST_NAMED: Final = 5
PROCESSES: Final = Path("/proc")
_TIMEOUT: Final = re.compile(r"\A(-t\d*|--http-timeout)(=.*)?\Z")

Level = Literal["fine", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """The result of one examination; unless it is fine, `hint` says how to fix the problem.

    A note is what would be a warning in production.
    """

    level: Level
    about: str
    text: str
    hint: str = ""


async def examine(*, deploy: bool = False) -> AsyncIterator[Finding]:
    """Yield the findings about this project and this machine, as soon as each is known."""
    wrong = False
    for finding in await in_thread(lambda: list(_settings(deploy))):
        wrong = wrong or finding.level == "error"
        yield finding
    if wrong:
        return  # The other examinations would fail for the same reasons.
    weak: Level = "warning" if deploy or not django_settings.DEBUG else "note"
    examinations: dict[str, Callable[[], Awaitable[Finding | list[Finding]]]] = {
        "channel layer": _layer,
        "event log": _log,
        "staged events": _staged,
        "limits": _limits,
        "clock": _clock,
        "site": _site,
        "SQLite": lambda: in_thread(lambda: list(_sqlite(weak))),
        "servers": lambda: in_thread(lambda: list(_servers(weak))),
    }
    for about, examination in examinations.items():
        for finding in await _answering(about, examination()):
            yield finding


def _settings(deploy: bool) -> Iterator[Finding]:
    found = checks.run_checks(tags=["sse_app"], include_deployment_checks=deploy)
    for message in found:
        if message.is_silenced():
            continue
        level: Level = "error" if message.level >= checks.ERROR else "warning"
        yield Finding(level, f"settings ({message.id})", str(message.msg), message.hint or "")
    if not found:
        yield Finding("fine", "settings", "SSE_APP has no errors.")


async def _answering(about: str, check: Awaitable[Finding | list[Finding]]) -> list[Finding]:
    """Return the findings of `check`. An exception or no answer in time is a finding, too."""
    task = asyncio.ensure_future(check)
    done, _ = await asyncio.wait([task], timeout=ANSWER_SECONDS)
    if not done:
        task.cancel()  # Not awaited, since its clean-up may hang too.
        return [Finding("error", about, f"No answer within {ANSWER_SECONDS:g} s.", REACH)]
    try:
        found = task.result()
    except Exception as error:
        missing = "no such table" in str(error) or isinstance(error, ProgrammingError)
        hint = "Run manage.py migrate." if missing else REACH
        return [Finding("error", about, f"Failed: {type(error).__name__}: {error}", hint)]
    return found if isinstance(found, list) else [found]


async def _layer() -> Finding:
    target = channel_layer()
    kind = f"{type(target).__module__}.{type(target).__qualname__}"
    text = f"{kind}: sent and received in {await probe_layer() * 1000:.1f} ms."
    if is_in_memory():
        text += " An in-memory layer reaches one process only."
    return Finding("fine", "channel layer", text)


async def _log() -> Finding:
    log = event_log()
    began = time.perf_counter()
    (*_, stored) = await log.aappend([Event.of(GROUP, "doctor", {"at": time.time()})])
    before = Position(stored.epoch or "", (stored.offset or 1) - 1, stored.previous)
    read = await log.asince(GROUP, before if before.offset else START, 1)
    took = (time.perf_counter() - began) * 1000
    if not read or (read[0].data, read[0].offset) != (stored.data, stored.offset):
        text = f"Event {stored.offset} of group {GROUP!r} was written, but {read!r} was read."
        hint = "Is the log on a replica, or do its settings name two different logs?"
        return Finding("error", "event log", text, hint)
    where = f"{type(log).__name__}" + (f" in the database {log.alias!r}" if log.alias else "")
    return Finding("fine", "event log", f"{where}: written and read in {took:.1f} ms.")


async def _staged() -> Finding:
    """Find committed events that have waited for an offset longer than for two sweeps."""
    before = time.time() - 2 * settings().SWEEP_INTERVAL - ANSWER_SECONDS
    delayed = await in_thread(event_log().delayed)
    old = {group: since for group, since in delayed.items() if since < before}
    if not old:
        return Finding("fine", "staged events", "No committed event waits for its offset.")
    oldest = sorted(old, key=lambda group: old[group])[:MOST_NAMED]
    text = (
        f"Events of {len(old)} group(s) wait for their offsets, for up to "
        f"{time.time() - min(old.values()):.0f} s: {', '.join(oldest)}."
    )
    hint = (
        "Is a server process running? Has a session of the database locked the heads of these "
        "groups? On PostgreSQL, pg_stat_activity shows the sessions."
    )
    return Finding("error", "staged events", text, hint)


async def _limits() -> Finding:
    try:
        shared = await limits_redis.probe()
    except Exception as error:
        text = f"Each process counts its own streams only: Redis can't count them ({error!r})."
        return Finding("error", "limits", text, REACH)
    if shared:
        return Finding("fine", "limits", "The streams of all processes are counted in Redis.")
    return Finding("fine", "limits", "Each process counts its own streams: none share a Redis.")


async def _clock() -> Finding:
    log, now = event_log(), time.time()
    if log.alias is not None and connections[log.alias].vendor == "postgresql":
        there = await in_thread(_database_time, log.alias)
    elif isinstance(log, RedisEventLog) and (server_time := await log.server_time()) is not None:
        there = server_time
    else:
        return Finding("fine", "clock", "The event log uses the clock of this machine.")
    ahead = (now + time.time()) / 2 - there
    text = f"This machine is {abs(ahead):.2f} s {'ahead of' if ahead > 0 else 'behind'} the log's."
    if abs(ahead) > CLOCK_SECONDS:
        hint = "Set both clocks by NTP: retention, grants and tickets depend on them."
        return Finding("error", "clock", text, hint)
    return Finding("fine", "clock", text)


def _database_time(alias: str) -> float:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())")
        return float(cursor.fetchone()[0])


async def _site() -> Finding:
    """Show the site tag, and the server processes on this database that have another tag."""
    tag, log = site_tag(), event_log()
    others = [
        f"{process.report['site']!r} in process {process.pid} on {process.host}"
        for process in await in_thread(processes.alive)
        if process.report.get("site", tag) != tag
    ]
    if others:
        text = (
            f"The tag is {tag!r} here, but {', '.join(others)}: they get no events of each other."
        )
        hint = "Use the same SECRET_KEY, SECRET_KEY_FALLBACKS and SITE_TAG in all processes."
        return Finding("error", "site", text, hint)
    text = f"The tag is {tag!r}; messages of sites with another tag do not arrive."
    if isinstance(log, RedisEventLog):
        text += f" The keys of the event log begin with {log.location()[0]!r}."
    return Finding("fine", "site", text)


def _sqlite(weak: Level) -> Iterator[Finding]:
    alias = event_log().alias
    if alias is None or connections[alias].vendor != "sqlite":
        return
    options = connections[alias].settings_dict.get("OPTIONS", {})
    with connections[alias].cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        mode = str(cursor.fetchone()[0])
    if mode not in ("wal", "memory"):
        yield Finding(
            weak,
            "SQLite",
            f"The journal mode is {mode!r}: publishers wait while another connection reads.",
            "OPTIONS = {'init_command': 'PRAGMA journal_mode=WAL', ...}",
        )
    if str(options.get("transaction_mode", "")).upper() != "IMMEDIATE":
        yield Finding(
            weak,
            "SQLite",
            "Transactions begin deferred: if one reads first and another connection writes "
            "meanwhile, its own write fails immediately.",
            "OPTIONS = {'transaction_mode': 'IMMEDIATE', ...}",
        )


def _servers(weak: Level) -> Iterator[Finding]:
    """Examine the command lines of the server processes that this machine runs for the project.

    Those are the processes whose rows in the project's database name this machine. Other projects
    and other checkouts may run Daphne here too.
    """
    own = [process for process in processes.alive() if process.host == HOST]
    for process in sorted(own, key=lambda process: process.pid):
        words = _command_line(process.pid)
        line = " ".join(words) or process.report.get("server", "")
        yield Finding("fine", "server", f"Examined process {process.pid}: {line}")
        if any(Path(word).name == "daphne" for word in words[:3]):
            yield from _daphne(words, weak)
    if not own:
        text = (
            "No server process of this project is known on this machine. "
            "Each one reports to the database, from its first request on."
        )
        yield Finding("fine", "server", text)


def _daphne(words: list[str], weak: Level) -> Iterator[Finding]:
    """Yield what is wrong with a command line of Daphne."""
    line = " ".join(words)
    if any(map(_TIMEOUT.match, words)):
        yield Finding(
            "error", "server", f"Daphne ends every stream after a time: {line}", "Leave out -t."
        )
    if "--proxy-headers" in words:
        yield Finding(
            weak,
            "server",
            f"Daphne accepts any client address that a request's header claims: {line}",
            "Leave out --proxy-headers and set SSE_APP['TRUSTED_PROXIES'].",
        )
    if not any("backlog=" in word for word in words) and "--fd" not in words:
        yield Finding(
            weak,
            "server",
            f"Only 50 clients can wait for Daphne, also if all reconnect at once: {line}",
            "Start it with -e tcp:port=8000:interface=127.0.0.1:backlog=4096.",
        )


def _command_line(pid: int) -> list[str]:
    """Return the words of a process's command line; none if /proc does not show it."""
    try:
        shown = (PROCESSES / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return shown.decode(errors="replace").rstrip("\0").split("\0")
