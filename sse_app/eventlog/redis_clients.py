"""redis-py's clients for the Redis log: one for all threads, and one for each event loop.

The clients never repeat a command: an append whose answer was lost may have been done, and would
be done twice. Readers try again themselves. After a command without an answer, the idle connections
are closed, because a firewall that forgot one connection has forgotten the others too, and the next
commands fail immediately for some seconds, see `Breaker`.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from functools import cache, cached_property
from hashlib import sha1
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from django.core.exceptions import ImproperlyConfigured

from .breaker import Breaker

TIMEOUTS: Final[Mapping[str, Any]] = {
    "socket_timeout": 5.0,
    "socket_connect_timeout": 2.0,
    # A connection that was idle for so many seconds is tested before its next command is sent.
    "health_check_interval": 10,
}
#: The system closes a connection whose other end has been silent for 25 s. For all URLs but
#: `unix://`. Not every system has each option.
KEEPALIVE: Final[Mapping[str, int]] = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 25_000,
}
#: For sync code, unless the options say otherwise: a thread uses one connection at a time.
UNLIMITED: Final[Mapping[str, Any]] = {"max_connections": 2**31}
#: Connections of one event loop, on a cluster to each node. Redis runs one command at a time, so
#: more connections gain nothing. The app waits for one, since redis-py's pools raise if none is
#: free.
CONNECTIONS: Final = 32
#: How long a command waits for a connection before it fails.
WAIT_SECONDS: Final = 5.0
#: How long an append waits for `WAIT_REPLICAS` replicas, but at most half of `socket_timeout`.
REPLICA_SECONDS: Final = 1.0
_SECRET: Final = re.compile(r"(?<=://)[^@/]*@")


class Appended(NamedTuple):
    """The answers of an append's scripts, each perhaps an exception.

    `replicas`: how many replicas confirmed the append, None if they were not asked.
    """

    answers: list[Any]
    replicas: int | None = None


class LoopClient:
    """The client of one event loop; a command or pipeline borrows one connection.

    After `retire()` the last borrower closes the client, so no command loses its connection.
    """

    def __init__(self, client: Any, connections: int, clients: RedisClients) -> None:
        self._client = client
        self._clients = clients
        self._free = asyncio.Semaphore(connections)
        self._borrowers = 0
        self._retired = False

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[Any]:
        """Wait for a free connection; raises redis-py's `TimeoutError` after `WAIT_SECONDS`.

        Raises `LogUnavailable` while the log is not asked.
        """
        self._borrowers += 1
        try:
            await self._acquire()
            try:
                with self._clients.guard():
                    yield self._client
            except self._clients.no_answer:
                await self._close_idle()
                raise
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

    async def _close_idle(self) -> None:
        self._clients.close_idle()
        with suppress(Exception):
            await self._client.connection_pool.disconnect(inuse_connections=False)

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
        wait_replicas: int,
    ) -> None:
        self._url = url
        self.cluster = cluster
        self.wait_replicas = wait_replicas
        self._sentinels = [(str(host), int(port)) for host, port in sentinels]
        self._service = service_name
        self._options = {**TIMEOUTS, **_keepalive(url), **options}
        self._of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopClient]
        self._of_loop = WeakKeyDictionary()
        self._validate()
        from redis.exceptions import TimeoutError as RedisTimeoutError

        #: The exceptions of a command that got no answer in time.
        self.no_answer = (RedisTimeoutError, TimeoutError)
        self._breaker = Breaker(self.no_answer)

    def _validate(self) -> None:
        wait = self.wait_replicas
        if not isinstance(wait, int) or isinstance(wait, bool) or wait < 0:
            raise ImproperlyConfigured(
                f"SSE_APP['EVENT_LOG']['WAIT_REPLICAS'] is {wait!r}; it must be how many replicas "
                "confirm each event, for example 1, or 0 to ask none."
            )
        if wait and self.cluster:
            raise ImproperlyConfigured(
                f"SSE_APP['EVENT_LOG'] has CLUSTER and WAIT_REPLICAS {wait!r}; redis-py can't wait "
                "for the replicas of a Redis Cluster. Set min-replicas-to-write on its nodes."
            )
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
            client = self._of_loop[loop] = LoopClient(self.connect(), self._connections, self)
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

    def guard(self) -> AbstractContextManager[None]:
        """Return the context of one command, see `Breaker.guard()`.

        Empty on a cluster: one node that hangs must not stop the groups of other nodes.
        """
        return nullcontext() if self.cluster else self._breaker.guard()

    def close_idle(self) -> None:
        """Close the sync client's idle connections, if there are any. From any thread."""
        client = self.__dict__.get("sync")
        if client is not None and not self.cluster:
            with suppress(Exception):
                client.connection_pool.disconnect(inuse_connections=False)

    def eval(self, *call: Any) -> Any:
        """Run a script; raises `LogUnavailable` while the log is not asked, as all commands do."""
        return self._run(lambda: self._eval(*call))

    def _eval(self, script: str, *call: Any) -> Any:
        from redis.exceptions import NoScriptError

        try:
            return self.sync.evalsha(_digest(script), *call)
        except NoScriptError:
            return self.sync.eval(script, *call)

    def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """Run `commands` in one round trip, as one transaction unless this is a cluster."""
        return list(self._run(self._filled(self.sync, commands).execute))

    def scan(self, pattern: str) -> Iterator[bytes]:
        """Yield the keys that match `pattern`."""
        found = self.sync.scan_iter(match=pattern, count=1000)
        while (key := self._run(lambda: next(found, None))) is not None:
            yield key

    def append(self, calls: Sequence[Sequence[Any]]) -> Appended:
        """Run the scripts of an append in one round trip, as `pipeline()`; wait for replicas."""
        if len(calls) == 1 and not self.wait_replicas:
            return Appended([self.eval(*calls[0])])
        pipe = self._filled(self.sync, self._append_commands(calls), not self.wait_replicas)
        return self._appended(calls, self._run(lambda: pipe.execute(raise_on_error=False)))

    def _run(self, command: Callable[[], Any]) -> Any:
        try:
            with self.guard():
                return command()
        except self.no_answer:
            self.close_idle()
            raise

    async def aeval(self, *call: Any) -> Any:
        """Run a script on the running loop."""
        from redis.exceptions import NoScriptError

        script, *rest = call
        async with self.of_loop.borrow() as client:
            try:
                return await client.evalsha(_digest(script), *rest)
            except NoScriptError:
                return await client.eval(*call)

    async def apipeline(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """See `pipeline()`."""
        async with self.of_loop.borrow() as client:
            answers = await self._filled(client, commands).execute(raise_on_error=False)
            await self._forget_nodes(client, answers)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return list(answers)

    async def aappend(self, calls: Sequence[Sequence[Any]]) -> Appended:
        """See `append()`."""
        if len(calls) == 1 and not self.wait_replicas:
            return Appended([await self.aeval(*calls[0])])
        async with self.of_loop.borrow() as client:
            pipe = self._filled(client, self._append_commands(calls), not self.wait_replicas)
            answers = await pipe.execute(raise_on_error=False)
            await self._forget_nodes(client, answers)
            return self._appended(calls, answers)

    async def _forget_nodes(self, client: Any, answers: Iterable[Any]) -> None:
        """Have a cluster's client read the map of the nodes again if a command failed.

        redis-py's pipeline does so only in its own retries, which are off here, and would not find
        a new primary.
        """
        if self.cluster and any(isinstance(answer, Exception) for answer in answers):
            await client.aclose()

    def _filled(
        self, client: Any, commands: Iterable[Sequence[Any]], transaction: bool = True
    ) -> Any:
        pipe = client.pipeline(transaction=transaction and not self.cluster)
        for command in commands:
            pipe.execute_command(*command)
        return pipe

    def _append_commands(self, calls: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
        scripts: list[Sequence[Any]] = [["EVAL", *call] for call in calls]
        if not self.cluster:  # The server has read the script of the first call: all have the same.
            scripts[1:] = [["EVALSHA", _digest(script), *call] for script, *call in calls[1:]]
        if not self.wait_replicas:
            return scripts
        if len(scripts) > 1:
            scripts = [["MULTI"], *scripts, ["EXEC"]]
        # After the transaction, because within it WAIT does not wait; and in the same pipeline,
        # because WAIT asks for the writes of its own connection only.
        seconds = min(REPLICA_SECONDS, (self._options["socket_timeout"] or REPLICA_SECONDS * 2) / 2)
        return [*scripts, ["WAIT", self.wait_replicas, int(seconds * 1000)]]

    def _appended(self, calls: Sequence[Sequence[Any]], answers: Sequence[Any]) -> Appended:
        if not self.wait_replicas:
            return Appended(list(answers))
        *found, replicas = answers
        stored = found if len(calls) == 1 else found[-1]
        for answer in (stored, replicas):
            if isinstance(answer, Exception):
                raise answer
        return Appended(list(stored), int(replicas))

    async def aclose(self) -> None:
        """Retire the client of the running loop; later commands get a new one."""
        client = self._of_loop.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.retire()


@cache
def _digest(script: str) -> str:
    """Return the name by which a server that has run the script knows it.

    The script itself has two kilobytes, which the server would read and digest each time.
    """
    return sha1(script.encode(), usedforsecurity=False).hexdigest()


def _keepalive(url: object) -> dict[str, Any]:
    if str(url).startswith("unix:"):
        return {}
    options = {getattr(socket, name, None): value for name, value in KEEPALIVE.items()}
    options.pop(None, None)
    return {"socket_keepalive": True, "socket_keepalive_options": options}
