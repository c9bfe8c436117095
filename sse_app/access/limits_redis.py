"""Counts the open streams of all live processes in the Redis that they share.

Each event loop with streams is a member and renews its lease. For each key (a user, a session, an
address) a hash has the number of streams of each member. Members without a lease do not count, so
the slots of a killed process are freed without a clean-up. All keys share one hash tag, so that
one script can read the leases and the counts.

If Redis is down or slow, nobody is refused: this process counts alone and, once Redis is back,
reports its counts as a new member. The log says so once a minute, `are_shared()` tells the metrics,
and `sse_doctor` tries by `probe()`.
"""

from __future__ import annotations

import asyncio
import inspect
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
from ..runtime.rare_logs import RareLog
from ..runtime.services import spawn
from ..runtime.telemetry import log_fields

logger = logging.getLogger("sse_app")
_alone_log = RareLog(logger)

#: KEYS: leases. ARGV: member, lease in ms, 1 for a new member, and the former member of its loop.
#: Removes the former member and expired leases. Returns 0 if the member's own lease has expired.
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
#: count. Adds one to each and returns 0; or adds nothing and returns the number of a full count.
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

#: KEYS: counts. ARGV: member, lifetime of a count in ms, then the member's number for each count.
REPORT: Final = """
for i = 1, #KEYS do
  if ARGV[i + 2] == '0' then redis.call('HDEL', KEYS[i], ARGV[1])
  else
    redis.call('HSET', KEYS[i], ARGV[1], ARGV[i + 2])
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
  end
end
return 0
"""


#: Seconds for which the streams of a killed process still count.
LEASE_SECONDS: float = 10.0
RENEW_SECONDS: float = 3.0
#: Seconds to wait for Redis before this process counts alone.
TIMEOUT_SECONDS: Final = 0.5
REPORTED_PER_SCRIPT: Final = 500
#: Requests in one round trip: when all clients reconnect together, each batch must fit the timeout.
REQUESTS_PER_BATCH: Final = 500


class _Request:
    """A request that waits for its slots; the result is the full key, or None."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.limits = limits
        self.full: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()


class SharedCounts:
    """The slots taken on the running loop, and their counts in Redis. Used on that loop only.

    One task sends all commands, batch after batch, as long as slots are taken. So a cancelled
    request never interrupts the connection, and the last report is the last command. When no slot
    is taken, the task closes the connection and ends.
    """

    def __init__(self, prefix: str, connect: Callable[[], Any]) -> None:
        self._prefix = f"{{{prefix}.limits}}:"
        self._connect = connect
        self._client: Any = None
        self._member = self._former = ""
        self._held: Counter[str] = Counter()
        self._requests: list[_Request] = []
        self._unreported: set[str] = set()
        self._retry_at = 0.0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def alone(self) -> bool:
        """Whether Redis is down, so that this process counts alone."""
        return self._retry_at > 0

    async def take(self, limits: Mapping[str, int]) -> str | None:
        """Take a slot under each key of `limits` and return None; or return a full key."""
        if self.alone:
            self._held.update(limits.keys())
            self._unreported.update(limits)
            self._wake_task()
            return None
        request = _Request(limits)
        self._requests.append(request)
        self._wake_task()
        try:
            return await request.full
        except asyncio.CancelledError:
            if not request.full.cancelled() and request.full.result() is None:
                self.release(limits.keys())
            raise

    def release(self, keys: Collection[str]) -> None:
        """Release a slot under each key."""
        for key in keys:
            self._held[key] -= 1
            if self._held[key] <= 0:
                del self._held[key]
        self._unreported.update(keys)
        self._wake_task()

    # --- the task ---

    def _wake_task(self) -> None:
        self._wake.set()
        if self._task is None:
            self._task = spawn(self._run)

    @property
    def _busy(self) -> bool:
        return bool(self._held or self._requests or (self._unreported and not self.alone))

    async def _run(self) -> None:
        task: Any = asyncio.current_task()
        try:
            # redis-py may swallow the cancellation: it uses `asyncio.wait_for()`, which does so on
            # Python 3.11 if what it waits for ends at that moment.
            while self._busy and not task.cancelling():
                self._wake.clear()
                if time.monotonic() >= self._retry_at:
                    await self._exchange()
                if self._busy:
                    await self._wait()
                else:
                    await self._end_lease()
        finally:
            self._task = None

    async def _wait(self) -> None:
        until_retry = max(0.0, self._retry_at - time.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(until_retry if self.alone else RENEW_SECONDS):
                await self._wake.wait()

    async def _exchange(self) -> None:
        """Renew the lease, report changed counts and take slots, in one round trip."""
        requests = self._requests[:REQUESTS_PER_BATCH]
        del self._requests[:REQUESTS_PER_BATCH]
        if self._requests:
            self._wake.set()
        unreported = self._unreported if self._member else set(self._held)
        self._unreported = set()
        commands = [
            self._lease_command(),
            *self._report_commands(unreported),
            *map(self._take_command, requests),
        ]
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                with contained():
                    answers = await self._send(commands)
        except Exception as error:
            await self._lose_redis(error, requests)
            return
        self._regain_redis()
        if not answers[0]:  # The process was stopped longer than its lease, or Redis was flushed.
            self._member, self._former = "", self._member
            self._requests = [*requests, *self._requests]
            self._wake.set()
            return
        for request, full in zip(requests, answers[len(commands) - len(requests) :], strict=True):
            self._answer(request, full)

    def _answer(self, request: _Request, full: int) -> None:
        if full:
            result = list(request.limits)[full - 1]
        else:
            result = None
            self._held.update(request.limits.keys())
        if not request.full.done():
            request.full.set_result(result)
        elif not full:  # The request was cancelled meanwhile.
            self.release(request.limits.keys())

    async def _lose_redis(self, error: Exception, requests: list[_Request]) -> None:
        _alone_log(
            "Redis does not answer (%r): until it does, this process counts alone.",
            error,
            extra=log_fields(error=error),
        )
        self._retry_at = time.monotonic() + RENEW_SECONDS
        self._former, self._member = self._member or self._former, ""
        requests, self._requests = [*requests, *self._requests], []
        for request in requests:
            self._answer(request, 0)
        await self._disconnect()

    def _regain_redis(self) -> None:
        if self.alone:
            logger.info("Redis counts the streams of all processes again.", extra=log_fields())
            self._retry_at = 0.0

    async def _end_lease(self) -> None:
        """Delete the lease immediately instead of letting it expire: no slot is taken."""
        with suppress(Exception):
            async with asyncio.timeout(TIMEOUT_SECONDS):
                if self._member:
                    await self._send([["ZREM", self._key("leases"), self._member]])
        self._member = ""
        await self._disconnect()

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        with suppress(Exception):
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await client.aclose()

    # --- the commands ---

    async def probe(self) -> None:
        """Run a script that does nothing on these keys; raises Redis' exceptions."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await self._send([["EVAL", "return 0", 1, self._key("leases")]])
        finally:
            await self._disconnect()

    async def _send(self, commands: Collection[list[Any]]) -> list[Any]:
        if self._client is None:
            client = self._connect()
            # Not `isawaitable`: redis-py's clients are awaitable, too.
            self._client = await client if inspect.iscoroutine(client) else client
        pipe = self._client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        return list(await pipe.execute())

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _lease_command(self) -> list[Any]:
        new = not self._member
        if new:
            self._member = secrets.token_hex(8)
        lease = int(LEASE_SECONDS * 1000)
        return ["EVAL", RENEW, 1, self._key("leases"), self._member, lease, int(new), self._former]

    def _report_commands(self, keys: Collection[str]) -> Iterator[list[Any]]:
        keys = list(keys)
        for start in range(0, len(keys), REPORTED_PER_SCRIPT):
            chunk = keys[start : start + REPORTED_PER_SCRIPT]
            counts = [self._held[key] for key in chunk]
            names = map(self._key, chunk)
            yield ["EVAL", REPORT, len(chunk), *names, self._member, _count_milliseconds(), *counts]

    def _take_command(self, request: _Request) -> list[Any]:
        keys = [self._key("leases"), *map(self._key, request.limits)]
        limits = request.limits.values()
        return ["EVAL", TAKE, len(keys), *keys, self._member, _count_milliseconds(), *limits]


def _count_milliseconds() -> int:
    # No stream lives longer than half of this, and each new stream under a key renews the count.
    return int(2000 * max(settings().STREAM_LIFE, settings().PUBLIC_STREAM_LIFE))


# --- the shared Redis ---

_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, SharedCounts | None] = WeakKeyDictionary()


def shared_counts() -> SharedCounts | None:
    """Return the running loop's counts; None where the processes share no Redis.

    The shared Redis is the event log's, else the channel layer's if it is of channels_redis.
    """
    loop = asyncio.get_running_loop()
    if loop not in _of_loop:
        for other in [other for other in _of_loop if other.is_closed()]:
            del _of_loop[other]
        redis = _common_redis()
        _of_loop[loop] = None if redis is None else SharedCounts(*redis)
    return _of_loop[loop]


def are_shared() -> bool | None:
    """Return whether this process counts together with all others; None if it shares no Redis."""
    found = [counts for counts in list(_of_loop.values()) if counts is not None]
    return not any(counts.alone for counts in found) if found else None


async def probe() -> bool:
    """Return whether the processes share a Redis; raises its exceptions if it can't count."""
    redis = _common_redis()
    if redis is None:
        return False
    await SharedCounts(*redis).probe()
    return True


def _common_redis() -> tuple[str, Callable[[], Any]] | None:
    log = event_log()
    if isinstance(log, RedisEventLog):
        return log.location()
    kinds = type(channel_layer()).__mro__
    if not any(kind.__module__.startswith("channels_redis.") for kind in kinds):
        return None
    config = channel_layers.configs[settings().CHANNEL_LAYER].get("CONFIG", {})
    prefix = f"{config.get('prefix', 'asgi')}.sse_app.{site_tag()}"
    return prefix, partial(_connect, config.get("hosts"))


async def _connect(hosts: Any) -> Any:
    """Return a client of the channel layer's first host, made the way channels_redis does.

    If that host is a node of a Redis Cluster, return a client of the cluster: another node may have
    the counts.
    """
    from channels_redis.utils import create_pool, decode_hosts
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ResponseError

    host, retry = decode_hosts(hosts)[0], Retry(NoBackoff(), 0)
    client = Redis.from_pool(create_pool(host))
    client.set_retry(retry)
    try:
        is_node = bool((await client.info("cluster")).get("cluster_enabled"))
    except ResponseError:
        return client  # The user may not call INFO.
    except BaseException:
        await client.aclose()
        raise
    if not is_node:
        return client
    await client.aclose()
    options = {**host, "retry": retry}
    if (address := options.pop("address", None)) is not None:
        return RedisCluster.from_url(address, **options)
    return RedisCluster(**options)


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in TAG_SETTINGS | {"CHANNEL_LAYERS"}:
        _of_loop.clear()


at_fork(_of_loop.clear)
