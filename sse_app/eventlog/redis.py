"""The log in Redis or Valkey: a hash for a group's head and a stream for its events.

Every change is one Lua script on the two keys of a group, so it is atomic. The keys share the hash
tag `{<group>}`, so they are on one node of a Redis Cluster. A stream entry's id is
`<offset>-<milliseconds>`: offsets give the order, and trimming reads the age. Both keys expire, the
head later than the events, so an idle group uses no memory in the end; the keys of a group that
matches `RETAIN` don't expire.

Redis decides how durable an acknowledged event is: with `appendonly yes` and `appendfsync always`
it survives a crash of the server. After a crash that lost events, run `manage.py sse_new_epoch`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from math import isfinite
from typing import Any, ClassVar, Final

from django.core.exceptions import ImproperlyConfigured

from ..conf import settings, site_tag
from ..protocol.cursors import START, Position
from ..protocol.events import Event
from .contract import (
    HEAD_RETENTION_FACTOR,
    Changes,
    EventLog,
    Outcome,
    Read,
    new_epoch,
    new_mark,
)
from .failures import NotReplicated, PartlyStored
from .redis_answers import (
    HEAD,
    first_position,
    lacks_head,
    needs_start,
    numbered,
    outcomes,
    positions,
    read_since,
)
from .redis_changes import RedisChanges, group_of
from .redis_clients import Appended, RedisClients
from .redis_scripts import (
    APPEND,
    CLUSTER_APPEND,
    CLUSTER_RENEW,
    LOG_MARK,
    PRUNE,
    READ,
    RENEW,
)
from .retention import retained_count, retention_seconds

#: The most events that one script removes: while a script runs, Redis serves no other client.
PRUNE_EVENTS: Final = 1000
PIPELINE_READS: Final = 500
#: How many groups `known()` reads.
KNOWN_HEADS: Final = 2000

_PREFIX: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z", re.ASCII)

logger = logging.getLogger("sse_app")


class RedisEventLog(EventLog):
    """Stores events in Redis 7, Valkey 7.2 or newer; all processes with the same options share it.

    `url`: `redis://`, `rediss://` for TLS, or `unix://`, as redis-py reads it. `prefix`: the first
    part of the keys, by default `sse_app.` and the site tag; sites with the same prefix share one
    log. `cluster=True`: for a Redis Cluster. `sentinels`, a list of `(host, port)`, and
    `service_name`: for Sentinel. `options`: for redis-py's client, for example
    `{"ssl_ca_certs": "/etc/ssl/redis.pem"}`. Raises `ImproperlyConfigured` for invalid arguments.

    `wait_replicas`: after each append, wait up to a second until so many replicas confirm it; with
    fewer, `append()` raises `NotReplicated`. Not for a cluster.

    If a command gets no answer, the next ones raise `LogUnavailable` for some seconds.

    An `append()` to several groups is one round trip and one transaction; on a cluster it is one
    round trip for each node and atomic for each group.
    """

    shared: ClassVar[bool] = True
    prunes_itself: ClassVar[bool] = True  # each append trims its group, and idle groups expire

    def __init__(
        self,
        url: str = "redis://127.0.0.1:6379/0",
        prefix: str | None = None,
        cluster: bool = False,
        sentinels: Sequence[tuple[str, int]] = (),
        service_name: str | None = None,
        options: Mapping[str, Any] | None = None,
        wait_replicas: int = 0,
    ) -> None:
        if prefix is None:
            prefix = f"sse_app.{site_tag()}"
        if not isinstance(prefix, str) or not _PREFIX.match(prefix):
            raise ImproperlyConfigured(
                f"SSE_APP['EVENT_LOG']['PREFIX'] is {prefix!r}; it must be 1 to 64 ASCII letters, "
                "digits, '_', '.', ':' and '-'."
            )
        self._prefix = prefix
        self._mark_key = f"{prefix}:mark"
        self._changes = RedisChanges(prefix, cluster)
        self._clients = RedisClients(
            url, cluster, sentinels, service_name, options or {}, wait_replicas
        )

    def location(self) -> tuple[str, Callable[[], Any]]:
        """Return the prefix of the keys, and a function that makes a client of the servers."""
        return self._prefix, self._clients.connect

    # --- publishing ---

    def append(self, events: Sequence[Event]) -> list[Event]:
        calls = self._append_calls(events)
        appended = self._clients.append(list(calls.values()))
        if notes := self._changes.notes(calls, appended.answers):
            with suppress(Exception):  # The events are stored, and a check of all heads finds them.
                self._clients.pipeline(notes)
        return self._stored(events, calls, appended)

    async def aappend(self, events: Sequence[Event]) -> list[Event]:
        calls = self._append_calls(events)
        appended = await self._clients.aappend(list(calls.values()))
        if notes := self._changes.notes(calls, appended.answers):
            with suppress(Exception):
                await self._clients.apipeline(notes)
        return self._stored(events, calls, appended)

    def _stored(
        self, events: Sequence[Event], calls: Mapping[str, list[Any]], appended: Appended
    ) -> list[Event]:
        """Return the numbered events; raises `PartlyStored`, or an error that stored nothing."""
        found = dict(zip(calls, appended.answers, strict=True))
        failed = {group: a for group, a in found.items() if isinstance(a, Exception)}
        if failed:
            found = {group: answer for group, answer in found.items() if group not in failed}
            events = [event for event in events if event.group in found]
        stored = numbered(calls, found, events)
        for error in failed.values():
            if not stored:
                raise error
            names = ", ".join(sorted(failed))
            text = f"The log did not take the events of {names}; the others are stored: {error}"
            raise PartlyStored(text, stored) from error
        wanted = self._clients.wait_replicas
        if appended.replicas is not None and appended.replicas < wanted:
            raise NotReplicated(
                f"The event is stored in the log, but {appended.replicas} of the {wanted} replicas "
                "that WAIT_REPLICAS asks for confirmed it in time: a failover may lose the event.",
                stored,
            )
        return stored

    def _append_calls(self, events: Sequence[Event]) -> dict[str, list[Any]]:
        calls: dict[str, list[Any]] = {}
        cluster = self._clients.cluster
        script = CLUSTER_APPEND if cluster else APPEND
        for event in events:
            call = calls.get(event.group)
            if call is None:
                keys = list(self._keys(event.group))
                if not cluster:  # There the keys may be on other nodes.
                    keys += [self._mark_key, self._changes.key(event.group)]
                limits = [*_limits(event.group), new_epoch(), HEAD_RETENTION_FACTOR]
                call = calls[event.group] = [script, len(keys), *keys, *limits]
            call += [event.name, event.data, new_mark() + event.excluded_text]
        if cluster:
            for group, call in calls.items():
                call.append(self._changes.key(group))
        return calls

    # --- reading ---

    def since(self, group: str, after: Position, limit: int) -> list[Event]:
        answer = self._clients.eval(*self._read(group, after, limit))
        start = self._start() if needs_start(after, answer) else START
        return read_since(group, after, answer, start)

    async def asince(self, group: str, after: Position, limit: int) -> list[Event]:
        answer = await self._clients.aeval(*self._read(group, after, limit))
        start = await self._astart() if needs_start(after, answer) else START
        return read_since(group, after, answer, start)

    async def asince_each(self, reads: Sequence[Read], limit: int) -> list[Outcome]:
        from redis.exceptions import ResponseError

        if type(self).asince is not RedisEventLog.asince:  # A subclass reads in its own way.
            return await super().asince_each(reads, limit)
        calls = [["EVAL", *self._read(group, after, limit)] for group, after in reads]
        try:
            answers = await self._clients.apipeline(calls)
        except ResponseError:  # Of one group, whose key has another type.
            return await super().asince_each(reads, limit)
        lacking = any(
            needs_start(after, one) for (_, after), one in zip(reads, answers, strict=True)
        )
        return outcomes(reads, answers, await self._astart() if lacking else START)

    def heads(self, groups: Collection[str]) -> dict[str, Position]:
        batches = _batches(self._head_reads(groups))
        answers = [head for batch in batches for head in self._clients.pipeline(batch)]
        start = self._start() if lacks_head(answers) else START
        return positions(groups, answers, start)

    async def aheads(self, groups: Collection[str]) -> dict[str, Position]:
        batches = _batches(self._head_reads(groups))
        answers = [head for batch in batches for head in await self._clients.apipeline(batch)]
        start = await self._astart() if lacks_head(answers) else START
        return positions(groups, answers, start)

    def changes(
        self, since: object, groups: Collection[str], also: Collection[str] = ()
    ) -> Changes:
        reads = self._changes.reads(since, groups)
        answers = self._clients.pipeline([*reads, *self._head_reads(also)])
        found, heads = answers[: len(reads)], answers[len(reads) :]
        start = self._start() if lacks_head(heads) else START
        return self._changes.changes(since, found, groups, positions(also, heads, start))

    async def achanges(
        self, since: object, groups: Collection[str], also: Collection[str] = ()
    ) -> Changes:
        reads = self._changes.reads(since, groups)
        answers = await self._clients.apipeline([*reads, *self._head_reads(also)])
        found, heads = answers[: len(reads)], answers[len(reads) :]
        start = await self._astart() if lacks_head(heads) else START
        return self._changes.changes(since, found, groups, positions(also, heads, start))

    def _start(self) -> Position:
        """Return the position of a group without a log. All such groups have the log's mark."""
        return START._replace(mark=self._clients.eval(*self._mark_call()).decode())

    async def _astart(self) -> Position:
        return START._replace(mark=(await self._clients.aeval(*self._mark_call())).decode())

    def _mark_call(self) -> list[Any]:
        return [LOG_MARK, 1, self._mark_key, new_mark()]

    def known(self, text: str, limit: int) -> list[str]:
        found = islice(self._all_heads(), KNOWN_HEADS)
        names = map(group_of, found)
        return sorted(name for name in names if text in name)[:limit]

    def earliest(self, group: str) -> Position:
        return first_position(self._clients.eval(*self._read(group, START, 1)))

    async def aearliest(self, group: str) -> Position:
        return first_position(await self._clients.aeval(*self._read(group, START, 1)))

    def times(self, group: str, after: int, limit: int) -> dict[int, float]:
        found = self._clients.eval(*self._read(group, Position("", after), limit))
        entries = (entry[0].decode().split("-") for entry in (found[1] if found else ()))
        return {int(offset): int(at) / 1000 for offset, at in entries}

    def _read(self, group: str, after: Position, limit: int) -> list[Any]:
        return [READ, 2, *self._keys(group), after.offset, limit]

    def _head_reads(self, groups: Collection[str]) -> list[list[Any]]:
        return [["HMGET", self._keys(group)[0], *HEAD] for group in groups]

    # --- retention and epochs ---

    def renew_epoch(self, groups: Collection[str] | None = None, *, only: str | None = None) -> int:
        names = (self._keys(group)[0].encode() for group in groups or ())
        heads = self._all_heads() if groups is None else names
        return sum(self._renew(head, only or "") for head in heads)

    def _renew(self, head: bytes, only: str) -> bool:
        group = group_of(head)
        changes = self._changes.key(group)
        call: list[Any] = [RENEW, 2, head, changes]
        if self._clients.cluster:
            call = [CLUSTER_RENEW, 1, head]
        answer = self._clients.eval(*call, new_epoch(), only, changes)
        if answer and not answer[3]:
            with suppress(Exception):
                self._clients.pipeline([self._changes.note(group, head, answer)])
        return bool(answer)

    def prune(self, limit: int | None = None) -> int:
        pruned = 0
        for head in self._all_heads():
            while (most := _prune_limit(limit, pruned)) > 0:
                events = head.removesuffix(b"head") + b"events"
                limits = [*_limits(group_of(head)), HEAD_RETENTION_FACTOR, most]
                trimmed = int(self._clients.eval(PRUNE, 2, head, events, *limits))
                pruned += trimmed
                if trimmed < most:
                    break
        return pruned

    async def server_time(self) -> float | None:
        """Return the server's Unix time; None for a cluster, whose nodes have different clocks."""
        if self._clients.cluster:
            return None
        async with self._clients.of_loop.borrow() as client:
            seconds, micros = await client.time()
        return float(seconds + micros / 1e6)

    async def aclose(self) -> None:
        await self._clients.aclose()

    def _all_heads(self) -> Iterator[bytes]:
        return self._clients.scan(f"{self._prefix}:{{*}}:head")

    def _keys(self, group: str) -> tuple[str, str]:
        return f"{self._prefix}:{{{group}}}:head", f"{self._prefix}:{{{group}}}:events"


def _limits(group: str) -> list[int]:
    now, age = time.time(), retention_seconds()
    # 0 stands for infinity, which Lua can't read.
    milliseconds = max(1, int(age * 1000)) if isfinite(age) else 0
    return [int(now * 1000), milliseconds, settings().RETENTION_EVENTS, retained_count(group)]


def _prune_limit(limit: int | None, done: int) -> int:
    return PRUNE_EVENTS if limit is None else min(PRUNE_EVENTS, limit - done)


def _batches(commands: list[list[Any]]) -> list[list[list[Any]]]:
    """Split the commands, so that one pipeline blocks neither the server nor the loop for long."""
    return [commands[at : at + PIPELINE_READS] for at in range(0, len(commands), PIPELINE_READS)]
