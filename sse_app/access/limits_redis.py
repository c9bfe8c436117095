"""Counts of open streams over all live processes, in the Redis that they have in common.

Each event loop that holds streams is a member, with a lease that it renews. A hash for each key
(a user, a session, an address) says how many streams each member has there, and what a member
without a lease has does not count. So a killed process takes its places along, and nothing has to
be cleaned up. All keys share one hash tag: a script sees the leases and the counts together.

Redis away or slow refuses nobody: this process then counts alone, and tells what it holds, as a
new member, when Redis is back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from channels.layers import channel_layers
from django.core.signals import setting_changed
from django.dispatch import receiver

from ..conf import TAG_SETTINGS, channel_layer, settings, site_tag
from ..eventlog import RedisEventLog, event_log
from ..runtime.callables import contained
from ..runtime.forks import at_fork
from ..runtime.services import spawn
from ..runtime.telemetry import log_fields

logger = logging.getLogger("sse_app")

#: KEYS: leases. ARGV: member, lease in ms, 1 for a new one, and whom that one follows. Ends the
#: leases that lapsed. Returns 0 if the member's own is one of them.
RENEW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREM', KEYS[1], ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ARGV[3] ~= '1' and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""

#: KEYS: leases, then counts. ARGV: member, lifetime of a count in ms, then the limit of each
#: count. Adds one to each, and returns 0; or adds nothing, and returns which one is full.
TAKE: Final = """
for i = 2, #KEYS do
  local held, sum = redis.call('HGETALL', KEYS[i]), 0
  for n = 1, #held, 2 do
    if redis.call('ZSCORE', KEYS[1], held[n]) then sum = sum + tonumber(held[n + 1])
    else redis.call('HDEL', KEYS[i], held[n]) end
  end
  if sum >= tonumber(ARGV[i + 1]) then return i - 1 end
end
for i = 2, #KEYS do
  redis.call('HINCRBY', KEYS[i], ARGV[1], 1)
  redis.call('PEXPIRE', KEYS[i], ARGV[2])
end
return 0
"""

#: KEYS: counts. ARGV: member, lifetime of a count in ms, then what the member has of each.
SAY: Final = """
for i = 1, #KEYS do
  if ARGV[i + 2] == '0' then redis.call('HDEL', KEYS[i], ARGV[1])
  else
    redis.call('HSET', KEYS[i], ARGV[1], ARGV[i + 2])
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
  end
end
return 0
"""


#: Seconds for which a process that was killed is still counted.
LEASE_SECONDS: float = 10.0
RENEW_SECONDS: float = 3.0
#: Seconds that a request waits for Redis before its process counts alone.
PATIENCE_SECONDS: Final = 0.5
SAID_AT_ONCE: Final = 500
#: Asks in one round trip: when everybody comes back at once, none shall take longer than patience.
ASKED_AT_ONCE: Final = 500


class _Ask:
    """A request that waits for its places."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.limits = limits
        self.full: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()


class SharedCounts:
    """What the running loop holds, told to Redis. Used on that loop only.

    One task does all the talking, in batches, one after the other, while anything is held: no
    request's cancellation reaches the connection, and what is said last is said last. It ends,
    and closes the connection, when nothing is held any more.
    """

    def __init__(self, prefix: str, connect: Callable[[], Any]) -> None:
        self._prefix = f"{{{prefix}.limits}}:"
        self._connect = connect
        self._client: Any = None
        self._member = self._former = ""
        self._held: Counter[str] = Counter()
        self._asked: list[_Ask] = []
        self._unsaid: set[str] = set()
        self._retry_at = 0.0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def alone(self) -> bool:
        """Is Redis away, so that this process counts for itself?"""
        return self._retry_at > 0

    async def take(self, limits: Mapping[str, int]) -> str | None:
        """Take a place under each key of `limits`; return the key that is full, else None."""
        if self.alone:
            self._held.update(limits.keys())
            self._unsaid.update(limits)
            self._work()
            return None
        ask = _Ask(limits)
        self._asked.append(ask)
        self._work()
        try:
            return await ask.full
        except asyncio.CancelledError:
            if not ask.full.cancelled() and ask.full.result() is None:
                self.give_back(limits.keys())
            raise

    def give_back(self, keys: Collection[str]) -> None:
        """Give back a place under each key."""
        for key in keys:
            self._held[key] -= 1
            if self._held[key] <= 0:
                del self._held[key]
        self._unsaid.update(keys)
        self._work()

    # --- the task ---

    def _work(self) -> None:
        self._wake.set()
        if self._task is None:
            self._task = spawn(self._run)

    @property
    def _busy(self) -> bool:
        return bool(self._held or self._asked or (self._unsaid and not self.alone))

    async def _run(self) -> None:
        try:
            while self._busy:
                self._wake.clear()
                if time.monotonic() >= self._retry_at:
                    await self._turn()
                if self._busy:
                    await self._rest()
                else:
                    await self._leave()
        finally:
            self._task = None

    async def _rest(self) -> None:
        until_retry = max(0.0, self._retry_at - time.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(until_retry if self.alone else RENEW_SECONDS):
                await self._wake.wait()

    async def _turn(self) -> None:
        """Renew the lease, say what changed and ask for what is asked for, in one round trip."""
        asked, self._asked = self._asked[:ASKED_AT_ONCE], self._asked[ASKED_AT_ONCE:]
        if self._asked:
            self._wake.set()
        unsaid = self._unsaid if self._member else set(self._held)
        self._unsaid = set()
        commands = [self._renewal(), *self._sayings(unsaid), *map(self._taking, asked)]
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                with contained():
                    answers = await self._send(commands)
        except Exception as error:
            await self._lose(error, asked)
            return
        self._find()
        if not answers[0]:  # The process was stopped for longer than its lease, or Redis emptied.
            self._member, self._former = "", self._member
            self._asked = [*asked, *self._asked]
            self._wake.set()
            return
        for ask, full in zip(asked, answers[len(commands) - len(asked) :], strict=True):
            self._answer(ask, full)

    def _answer(self, ask: _Ask, full: int) -> None:
        if full:
            result = list(ask.limits)[full - 1]
        else:
            result = None
            self._held.update(ask.limits.keys())
        if not ask.full.done():
            ask.full.set_result(result)
        elif not full:  # Cancelled meanwhile.
            self.give_back(ask.limits.keys())

    async def _lose(self, error: Exception, asked: list[_Ask]) -> None:
        if not self.alone:
            logger.warning(
                "Redis does not count streams (%r): until it does, this process counts alone.",
                error,
                extra=log_fields(error=error),
            )
        self._retry_at = time.monotonic() + RENEW_SECONDS
        self._former, self._member = self._member or self._former, ""
        asked, self._asked = [*asked, *self._asked], []
        for ask in asked:
            self._answer(ask, 0)
        await self._hang_up()

    def _find(self) -> None:
        if self.alone:
            logger.info("Redis counts the streams of all processes again.", extra=log_fields())
            self._retry_at = 0.0

    async def _leave(self) -> None:
        """Give up the lease at once: nothing is held."""
        with suppress(Exception):
            async with asyncio.timeout(PATIENCE_SECONDS):
                if self._member:
                    await self._send([["ZREM", self._key("leases"), self._member]])
        self._member = ""
        await self._hang_up()

    async def _hang_up(self) -> None:
        client, self._client = self._client, None
        with suppress(Exception):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await client.aclose()

    # --- what it says ---

    async def _send(self, commands: Collection[list[Any]]) -> list[Any]:
        if self._client is None:
            self._client = self._connect()
        pipe = self._client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        return list(await pipe.execute())

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _renewal(self) -> list[Any]:
        new = not self._member
        if new:
            self._member = secrets.token_hex(8)
        lease = int(LEASE_SECONDS * 1000)
        return ["EVAL", RENEW, 1, self._key("leases"), self._member, lease, int(new), self._former]

    def _sayings(self, keys: Collection[str]) -> Iterator[list[Any]]:
        keys = list(keys)
        for at in range(0, len(keys), SAID_AT_ONCE):
            some = keys[at : at + SAID_AT_ONCE]
            counts = [self._held[key] for key in some]
            names = map(self._key, some)
            yield ["EVAL", SAY, len(some), *names, self._member, _count_lives(), *counts]

    def _taking(self, ask: _Ask) -> list[Any]:
        keys = [self._key("leases"), *map(self._key, ask.limits)]
        limits = ask.limits.values()
        return ["EVAL", TAKE, len(keys), *keys, self._member, _count_lives(), *limits]


def _count_lives() -> int:
    # In milliseconds. No stream lives so long, and each new one under a key renews it.
    return int(2000 * max(settings().STREAM_LIFE, settings().PUBLIC_STREAM_LIFE))


# --- where Redis is ---

_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, SharedCounts | None] = WeakKeyDictionary()


def shared_counts() -> SharedCounts | None:
    """Return the running loop's counts; None where the processes have no Redis in common.

    They have if the event log is in Redis, else if the channel layer is one of channels_redis.
    """
    loop = asyncio.get_running_loop()
    if loop not in _of_loop:
        for other in [other for other in _of_loop if other.is_closed()]:
            del _of_loop[other]
        place = _place()
        _of_loop[loop] = None if place is None else SharedCounts(*place)
    return _of_loop[loop]


def _place() -> tuple[str, Callable[[], Any]] | None:
    log = event_log()
    if isinstance(log, RedisEventLog):
        return log.location()
    kinds = type(channel_layer()).__mro__
    if not any(kind.__module__.startswith("channels_redis.") for kind in kinds):
        return None
    config = channel_layers.configs[settings().CHANNEL_LAYER].get("CONFIG", {})
    prefix = f"{config.get('prefix', 'asgi')}.sse_app.{site_tag()}"
    return prefix, partial(_connect, config.get("hosts"))


def _connect(hosts: Any) -> Any:
    """Return a client of the channel layer's first host, made as channels_redis makes its own."""
    from channels_redis.utils import create_pool, decode_hosts
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    client = Redis.from_pool(create_pool(decode_hosts(hosts)[0]))
    client.set_retry(Retry(NoBackoff(), 0))
    return client


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in TAG_SETTINGS | {"CHANNEL_LAYERS"}:
        _of_loop.clear()


at_fork(_of_loop.clear)
