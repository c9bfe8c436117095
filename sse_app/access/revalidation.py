"""`Revalidator`: checks the rights of open streams again and again.

In each round batched queries find the users whose rights changed and the sessions that ended; the
policy is asked again only for these users, for several streams at once, and no round waits for it.
A round of all streams is due every `REVALIDATE_INTERVAL`, a round of held streams immediately after
a revocation has held them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import Collection
from functools import partial
from typing import Final

from ..conf import settings, stored_time, written
from ..runtime.callables import contained, in_thread
from ..runtime.rare_logs import RareLog
from ..runtime.services import spawn
from ..runtime.surroundings import surrounded
from ..runtime.telemetry import log_fields
from .authenticators import AuthenticatorFailed
from .authorization import PolicyFailed
from .fingerprints import Fingerprint, read_fingerprints
from .models import Revocation as RevocationRow
from .readers import Reader, concerned, held_readers, on_hold, readers
from .revocations import Revocation
from .sessions import live_sessions
from .tokens import is_token_key, read_token_fingerprints

#: After so many failed rounds in a row, streams of signed-in users end.
FAILED_ROUNDS: Final = 3
#: How many streams of one consumer's policy are checked at once.
AT_ONCE: Final = 32
RETRY_SECONDS: Final = 1.0
#: The largest difference in seconds between the clocks of the processes.
CLOCKS_SECONDS: Final = 60.0

logger = logging.getLogger("sse_app")
_unchecked_log = RareLog(logger, logging.ERROR)


class Revalidator:
    """Checks the streams of one event loop; a service of its hub, see `HubService`."""

    name: Final = "revalidator"

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        #: The readers that are checked now.
        self._checking: dict[Reader, asyncio.Task[bool]] = {}
        #: By the class of the consumer, which asks the policy, and for authenticators.
        self._asking = defaultdict[object, asyncio.Semaphore](partial(asyncio.Semaphore, AT_ONCE))
        #: By tenant, how many rounds in a row have failed.
        self._failures = Counter[str]()
        self._due = time.monotonic()
        self._revoked_until = time.time()

    async def start(self, hub: object) -> None:
        """Do nothing: `run()` prepares its own state."""

    def close(self) -> None:
        """Do nothing: there are no resources to release."""

    async def run(self) -> None:
        """Run rounds until cancelled."""
        self._schedule()
        try:
            with on_hold(self._loop, self._wake.set):
                await self._rounds()
        finally:
            for task in self._checking.values():
                task.cancel()

    async def _rounds(self) -> None:
        if held_readers(self._loop):
            self._wake.set()  # They were held before this run began.
        while True:
            try:
                async with asyncio.timeout(max(0.0, self._due - time.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                self._schedule()
                await self.round(self._all())
                continue
            self._wake.clear()
            if not await self.round(held_readers(self._loop)):
                self._loop.call_later(RETRY_SECONDS, self._wake.set)

    async def round(self, due: Collection[Reader]) -> bool:
        """Check the readers in `due`, in tasks if that may take time. Return False if it failed."""
        due = [reader for reader in due if reader not in self._checking]
        began = time.time()
        tenants = defaultdict[str, list[Reader]](list)
        for reader in due:
            tenants[reader.access.context.namespace].append(reader)
        # Each tenant may have users and sessions of its own, and fails alone.
        rounds = (self._round_of(tenant, found) for tenant, found in tenants.items())
        done = await asyncio.gather(*rounds)
        if all(done):
            self._revoked_until = began
        return all(done)

    async def _round_of(self, tenant: str, due: Collection[Reader]) -> bool:
        """See `round()`; for the readers of one tenant."""
        known = [reader for reader in due if reader.user_key]
        holds = {reader: reader.held for reader in due}
        try:
            with next(iter(due)).access.context.within():
                users, sessions, revoked = await in_thread(
                    surrounded(_read),
                    {reader.user_key for reader in known},
                    {reader.access.session_key for reader in known if reader.access.session_key},
                    self._revoked_until - CLOCKS_SECONDS,
                    key=(self, tenant),
                    seconds=_most_seconds(),
                )
        except Exception as error:
            self._fail(tenant, error)
            return False
        self._failures.pop(tenant, None)
        for revocation, at in revoked:
            for reader in concerned(revocation):
                if reader in holds and reader.stream.opened_at < at:
                    reader.revoke(revocation)
        for reader, hold in holds.items():
            self._begin_check(reader, hold, users.get(reader.user_key), sessions)
        return True

    def _begin_check(
        self, reader: Reader, hold: int, found: Fingerprint | None, sessions: set[str]
    ) -> None:
        session = reader.access.session_key if reader.user_key else ""
        gone = bool(session) and session not in sessions
        if not gone and reader.is_unchanged(found):
            reader.release(hold)
            return
        task = self._checking[reader] = spawn(self._check, reader, hold, found, gone)
        task.add_done_callback(lambda done: self._checked(reader, done))

    async def _check(
        self, reader: Reader, hold: int, found: Fingerprint | None, gone: bool
    ) -> bool:
        """Return False if the stream waits, because a policy or the database failed."""
        reader.access.context.enter()
        try:
            with contained():
                await reader.lose_revoked()
                if reader.user_key:
                    await self._readmit(reader, found, gone)
        except Exception as error:
            # The failure of a policy or an authenticator has been logged.
            if not isinstance(error, PolicyFailed | AuthenticatorFailed):
                _unchecked_log(
                    "The rights of a stream could not be checked; the stream waits.",
                    exc_info=True,
                    extra=log_fields(user=reader.user_key or None, groups=reader.stream.groups),
                )
            reader.doubt(_most_seconds())
            return False
        reader.release(hold)
        return True

    async def _readmit(self, reader: Reader, found: Fingerprint | None, gone: bool) -> None:
        if found is None or not found.active:
            reader.sign_out()
        elif gone and reader.access.session_moves:
            # The browser may already have the new session's cookie, and reconnects with it.
            reader.stream.close("age")
        elif gone or not await self._is_signed_in(reader):
            reader.sign_out()
        else:
            async with self._asking[reader.stream.sender]:
                async with asyncio.timeout(_most_seconds()):
                    await reader.readmit(found)

    async def _is_signed_in(self, reader: Reader) -> bool:
        """Whether the credentials of the stream's own request, if it has any, are still valid."""
        again = reader.access.again
        if again is None:
            return True
        # Beside the policies, so that slow authenticators delay only the streams that need them.
        async with self._asking[type(again)]:
            async with asyncio.timeout(_most_seconds()):
                return await again()

    def _checked(self, reader: Reader, done: asyncio.Task[bool]) -> None:
        del self._checking[reader]
        if done.cancelled() or not reader.held:
            return
        # A stream that was held again meanwhile is checked again immediately.
        self._loop.call_later(0.0 if done.result() else RETRY_SECONDS, self._wake.set)

    def _fail(self, tenant: str, error: Exception) -> None:
        self._failures[tenant] += 1
        logger.warning(
            "The rights of the streams can't be read (%d times in a row): %r",
            self._failures[tenant],
            error,
            extra=log_fields(error=error),
        )
        if self._failures[tenant] >= FAILED_ROUNDS:
            for reader in self._all():
                if reader.user_key and reader.access.context.namespace == tenant:
                    reader.stream.close("unverified")

    def _all(self) -> list[Reader]:
        return [reader for reader in readers() if reader.loop is self._loop]

    def _schedule(self) -> None:
        interval = settings().REVALIDATE_INTERVAL * random.uniform(0.8, 1.0)
        self._due = time.monotonic() + interval


def _most_seconds() -> float:
    """Return for how long a stream waits for a policy that fails."""
    return FAILED_ROUNDS * settings().POLICY_SECONDS


def _read(
    users: set[str], sessions: set[str], since: float
) -> tuple[dict[str, Fingerprint], set[str], list[tuple[Revocation, float]]]:
    tokens = read_token_fingerprints({*users, *filter(is_token_key, sessions)})
    people = {key for key in users if not is_token_key(key)}
    # The rows of `disconnect()`: its event to the other processes may have been lost with the log.
    rows = written(RevocationRow)
    recent = rows.filter(at__gt=stored_time(since))
    revoked = [(Revocation(user=row.user, group=row.group), row.at.timestamp()) for row in recent]
    live = live_sessions({name for name in sessions if not is_token_key(name)})
    live |= {key for key, token in tokens.items() if token.active}
    return {**read_fingerprints(people), **tokens}, live, revoked
