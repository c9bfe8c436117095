"""redis-py's clients for the Redis log: one for all threads, and one for each event loop.

No command is sent a second time by the client: an append whose answer was lost may have been
done, and would be done twice. Whoever reads tries again by itself.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final
from weakref import WeakKeyDictionary

from django.core.exceptions import ImproperlyConfigured

TIMEOUTS: Final[Mapping[str, Any]] = {"socket_timeout": 5.0, "socket_connect_timeout": 2.0}
_SECRET: Final = re.compile(r"(?<=://)[^@/]*@")


class RedisClients:
    """Makes clients when they are first used, after a fork too: its connections know their process.

    Raises `ImproperlyConfigured` for options that can't be meant so, without connecting.
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
        self._of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()
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
                "SSE_APP['EVENT_LOG'] needs SENTINELS and SERVICE_NAME together: it has "
                f"{self._sentinels!r} and {self._service!r}."
            )
        if self._sentinels and self.cluster:
            raise ImproperlyConfigured(
                "SSE_APP['EVENT_LOG'] has both CLUSTER and SENTINELS; a Redis Cluster needs none."
            )
        try:
            redis.ConnectionPool.from_url(self._url, **self._options).make_connection()
        except (TypeError, ValueError, AttributeError, redis.RedisError) as error:
            url = _SECRET.sub("", str(self._url))
            raise ImproperlyConfigured(
                f"SSE_APP['EVENT_LOG'] has the URL {url!r} and the OPTIONS "
                f"{sorted(self._options)}, which redis-py refuses: {error}"
            ) from error

    @cached_property
    def sync(self) -> Any:
        """The client for plain code; safe to use from every thread."""
        import redis.sentinel
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        options = {**self._options, "retry": Retry(NoBackoff(), 0)}
        if self._service:
            sentinel: Any = redis.sentinel.Sentinel  # without types in redis-py
            return sentinel(self._sentinels, **options).master_for(self._service)
        kind: Any = redis.RedisCluster if self.cluster else redis.Redis
        return kind.from_url(self._url, **options)

    @property
    def of_loop(self) -> Any:
        """The client of the running loop."""
        loop = asyncio.get_running_loop()
        client = self._of_loop.get(loop)
        if client is None:
            client = self._of_loop[loop] = self.connect()
        return client

    def connect(self) -> Any:
        """Return another client for the running loop; whoever asks closes it."""
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

    async def apipeline(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """See `pipeline()`."""
        pipe = self.of_loop.pipeline(transaction=not self.cluster)
        for command in commands:
            pipe.execute_command(*command)
        return list(await pipe.execute())

    async def aclose(self) -> None:
        """Close the client of the running loop."""
        client = self._of_loop.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()
