"""redis-py's clients for the Redis log: one for all threads, and one for each event loop.

The clients never repeat a command: an append whose answer was lost may have been done, and would
be done twice. Readers try again themselves.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, Final
from weakref import WeakKeyDictionary

from django.core.exceptions import ImproperlyConfigured

TIMEOUTS: Final[Mapping[str, Any]] = {"socket_timeout": 5.0, "socket_connect_timeout": 2.0}
#: For sync code, unless the options say otherwise: a thread uses one connection at a time.
UNLIMITED: Final[Mapping[str, Any]] = {"max_connections": 2**31}
#: Connections of one event loop, on a cluster to each node. Redis runs one command at a time, so
#: more connections gain nothing. The app waits for one, since redis-py's pools raise if none is
#: free.
CONNECTIONS: Final = 32
#: How long a command waits for a connection before it fails.
WAIT_SECONDS: Final = 5.0
_SECRET: Final = re.compile(r"(?<=://)[^@/]*@")


class LoopClient:
    """The client of one event loop; a command or pipeline borrows one connection.

    After `retire()` the last borrower closes the client, so no command loses its connection.
    """

    def __init__(self, client: Any, connections: int) -> None:
        self._client = client
        self._free = asyncio.Semaphore(connections)
        self._borrowers = 0
        self._retired = False

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[Any]:
        """Wait for a free connection; raises redis-py's `TimeoutError` after `WAIT_SECONDS`."""
        self._borrowers += 1
        try:
            await self._acquire()
            try:
                yield self._client
            finally:
                self._free.release()
        finally:
            self._borrowers -= 1
            await self._close_if_unused()

    async def retire(self) -> None:
        """Close the client as soon as it has no borrower."""
        self._retired = True
        await self._close_if_unused()

    async def _acquire(self) -> None:
        if not self._free.locked():
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            from redis.exceptions import TimeoutError as RedisTimeoutError

            raise RedisTimeoutError(
                f"No connection to Redis was free within {WAIT_SECONDS:g} s."
            ) from None

    async def _close_if_unused(self) -> None:
        if self._retired and not self._borrowers:
            await self._client.aclose()


class RedisClients:
    """Makes the clients at their first use.

    They may be used after a fork: redis-py's pools open new connections in another process.
    Raises `ImproperlyConfigured` for invalid options, without connecting.
    """

    def __init__(
        self,
        url: str,
        cluster: bool,
        sentinels: Sequence[tuple[str, int]],
        service_name: str | None,
        options: Mapping[str, Any],
    ) -> None:
        self._url = url
        self.cluster = cluster
        self._sentinels = [(str(host), int(port)) for host, port in sentinels]
        self._service = service_name
        self._options = {**TIMEOUTS, **options}
        self._of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopClient]
        self._of_loop = WeakKeyDictionary()
        self._validate()

    def _validate(self) -> None:
        try:
            import redis
        except ImportError as error:
            raise ImproperlyConfigured(
                'RedisEventLog needs the package redis: pip install "sse-app[redis]".'
            ) from error
        if bool(self._sentinels) != bool(self._service):
            raise ImproperlyConfigured(
                "SSE_APP['EVENT_LOG'] needs both SENTINELS and SERVICE_NAME, or neither: it has "
                f"{self._sentinels!r} and {self._service!r}."
            )
        if self._sentinels and self.cluster:
            raise ImproperlyConfigured(
                "SSE_APP['EVENT_LOG'] has CLUSTER and SENTINELS; a Redis Cluster has no sentinels."
            )
        try:
            pool = redis.ConnectionPool.from_url(self._url, **self._options)
            pool.make_connection()
        except (TypeError, ValueError, AttributeError, redis.RedisError) as error:
            url = _SECRET.sub("", str(self._url))
            raise ImproperlyConfigured(
                f"SSE_APP['EVENT_LOG'] has the URL {url!r} and the OPTIONS "
                f"{sorted(self._options)}, which redis-py refuses: {error}"
            ) from error
        # The URL or the options may allow fewer.
        self._connections = min(CONNECTIONS, pool.max_connections)

    @cached_property
    def sync(self) -> Any:
        """The client for sync code; any thread may use it."""
        import redis.sentinel
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        options = {**UNLIMITED, **self._options, "retry": Retry(NoBackoff(), 0)}
        if self._service:
            sentinel: Any = redis.sentinel.Sentinel  # without types in redis-py
            return sentinel(self._sentinels, **options).master_for(self._service)
        kind: Any = redis.RedisCluster if self.cluster else redis.Redis
        return kind.from_url(self._url, **options)

    @property
    def of_loop(self) -> LoopClient:
        """The client of the running loop."""
        loop = asyncio.get_running_loop()
        client = self._of_loop.get(loop)
        if client is None:
            client = self._of_loop[loop] = LoopClient(self.connect(), self._connections)
        return client

    def connect(self) -> Any:
        """Return a new client for the running loop; the caller closes it."""
        import redis.asyncio.sentinel
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        options = {**self._options, "retry": Retry(NoBackoff(), 0)}
        if self._service:
            sentinel: Any = redis.asyncio.sentinel.Sentinel
            return sentinel(self._sentinels, **options).master_for(self._service)
        kind: Any = redis.asyncio.RedisCluster if self.cluster else redis.asyncio.Redis
        return kind.from_url(self._url, **options)

    def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """Run `commands` in one round trip, as one transaction unless this is a cluster."""
        pipe = self.sync.pipeline(transaction=not self.cluster)
        for command in commands:
            pipe.execute_command(*command)
        return list(pipe.execute())

    async def aeval(self, *call: Any) -> Any:
        """Run a script on the running loop."""
        async with self.of_loop.borrow() as client:
            return await client.eval(*call)

    async def apipeline(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """See `pipeline()`."""
        async with self.of_loop.borrow() as client:
            pipe = client.pipeline(transaction=not self.cluster)
            for command in commands:
                pipe.execute_command(*command)
            return list(await pipe.execute())

    async def aclose(self) -> None:
        """Retire the client of the running loop; later commands get a new one."""
        client = self._of_loop.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.retire()
