"""`Reader`: an open stream under the rights of its user; and the readers of this process.

`apply()` ends or holds the streams that a revocation concerns, in the caller's thread and before it
returns. It finds the readers by the stream, user, session or group of the revocation, so the cost
is those streams and not all streams.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Final

from django.conf import settings as django_settings
from django.core.exceptions import ObjectDoesNotExist

from ..delivery.streams import Stream, full_user_key
from ..delivery.subscriptions import Subscription
from ..protocol.replies import Reply
from ..runtime.forks import at_fork
from .admission import Access
from .authorization import is_public
from .fingerprints import Fingerprint
from .index import Index
from .limits import Slots
from .revocations import Revocation
from .sessions import session_digest

#: The longest lag of a replica. A policy that may have read from a replica is asked again after it.
LAG_SECONDS: Final = 10.0
#: The number of revocations that are kept for streams that are just being opened.
RECENT: Final = 1000


class Reader:
    """Ends or holds one stream, and checks its rights again.

    Used on the stream's loop only, except for `revoke()`. `access` are the rights of the stream.
    `slots` are its slots under the limits, which are released when the stream ends.
    """

    __slots__ = (
        "_failing_since",
        "_lag_ends_at",
        "_revoked",
        "_signalled",
        "_slots",
        "access",
        "session_digest",
        "stream",
    )

    def __init__(self, stream: Stream, access: Access, slots: Slots) -> None:
        self.stream = stream
        self.access = access
        self.session_digest = session_digest(access.session_key)
        self._slots = slots
        self._revoked: list[str] = []
        #: Whether a signal announced a change that the fingerprint may not show.
        self._signalled = False
        #: When the first of the last checks in a row has failed; 0 after a check that did not fail.
        self._failing_since = 0.0
        #: Until this time the policy may have read from a replica that lags.
        self._lag_ends_at = _lag_ends()
        stream.at_end(self._ended)

    @property
    def id(self) -> str:
        """The id of the stream."""
        return self.stream.id

    @property
    def user_key(self) -> str:
        """See `Access.user_key`; empty for an anonymous reader."""
        return self.stream.user_key

    @property
    def revoked_by(self) -> str:
        """The `user` of revocations of this reader, see `full_user_key()`."""
        return full_user_key(self.stream)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that serves the stream."""
        return self.stream.hub.loop

    @property
    def held(self) -> int:
        """The number of the current hold, 0 if the stream is not held."""
        return self.stream.subscription.held

    def is_concerned(self, revocation: Revocation) -> bool:
        """Whether `revocation` concerns this reader."""
        if revocation.stream and revocation.stream != self.id:
            return False
        if revocation.user and revocation.user != self.revoked_by:
            return False
        if revocation.session and revocation.session != self.session_digest:
            return False
        if revocation.group and revocation.group not in self.stream.groups:
            return False
        return bool(self.user_key) or not revocation.review

    def revoke(self, revocation: Revocation) -> None:
        """Show no more events of groups that are lost or in doubt. Call it from any thread."""
        if revocation.group and not revocation.review:
            self._revoked.append(revocation.group)
        if revocation.review:
            self._signalled = True
        if revocation.group or revocation.review:
            self._hold()
        else:
            # The end of a session takes no public groups; `disconnect()` takes all groups.
            reason, groups = self._signed_out() if revocation.session else ("auth", ())
            self.stream.mute(reason, groups)
            _call(self.loop, partial(self.stream.close, reason, groups))

    def release(self, held: int) -> None:
        """Continue the stream, unless it was held again after `held` was read."""
        self._failing_since = 0.0
        self.stream.subscription.release(held)

    def doubt(self, seconds: float) -> None:
        """Hold the stream after a failed check; end it after `seconds` of failed checks."""
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if now - self._failing_since >= seconds:
            self.stream.close("unverified")
        elif not self.held:
            self._hold()

    def is_unchanged(self, fingerprint: Fingerprint | None) -> bool:
        """Whether no group was revoked, and nobody need be asked again, the policy for example."""
        in_doubt = self.user_key and (self._signalled or self._lag_ends_at or self.access.again)
        return fingerprint == self.access.fingerprint and not (self._revoked or in_doubt)

    def _hold(self) -> None:
        self.stream.subscription.hold()
        _note_hold(self)

    async def lose_revoked(self) -> None:
        """Leave the groups that were revoked."""
        while self._revoked:
            await self._lose(self._revoked.pop())

    async def readmit(self, fingerprint: Fingerprint) -> None:
        """Ask the policy again if the user's rights have changed or a signal announced a change."""
        before, signalled, lag_ends_at = self.access.fingerprint, self._signalled, self._lag_ends_at
        if before is None or fingerprint.password != before.password:
            self.sign_out()
            return
        changed = fingerprint != before
        if not (changed or signalled or lag_ends_at):
            return
        self._signalled = False
        if changed or signalled:
            self._lag_ends_at = _lag_ends()
        elif time.monotonic() >= lag_ends_at:
            self._lag_ends_at = 0.0
        try:
            for group in await self._lost_groups(changed=changed):
                await self._lose(group)
        except BaseException:
            # The next round asks again. A signal may have announced another change meanwhile.
            self._signalled, self._lag_ends_at = self._signalled or signalled, lag_ends_at
            raise
        self.access.fingerprint = fingerprint

    def sign_out(self) -> None:
        """End the stream, because its user or session has signed out."""
        self.stream.close(*self._signed_out())

    async def _lost_groups(self, *, changed: bool) -> set[str]:
        """Return the groups that the policy no longer permits.

        The policy is asked for the groups of signed pages only if the user's rights have `changed`.
        """
        access = self.access
        if changed:
            access.granted = frozenset()
        undecided = set(self.stream.groups) - access.granted
        if not undecided:
            return set()
        try:
            await access.refresh()
        except ObjectDoesNotExist:  # The user was deleted a moment ago.
            self.sign_out()
            return set()
        self.stream.user = access.user
        return undecided - set(await access.permitted(undecided))

    def _signed_out(self) -> tuple[str, Collection[str]]:
        """Return the reason and the lost groups for a stream whose user has signed out.

        A stream of public groups reconnects immediately, as the browser's current user.
        """
        private = tuple(group for group in self.stream.groups if not is_public([group]))
        needs_user = private and self.user_key
        return ("auth", private) if needs_user or self.access.token_key else ("session", ())

    async def _lose(self, group: str) -> None:
        if self.stream.groups == (group,):
            self.stream.close("auth")
        else:
            await self.stream.lose(group)

    def _ended(self) -> None:
        self._slots.release()
        leave(self)


def _lag_ends() -> float:
    """Return the monotonic time until which a policy asked now may read old rights.

    Return 0 without database routers, since the policy then reads from no replica.
    """
    return time.monotonic() + LAG_SECONDS if django_settings.DATABASE_ROUTERS else 0.0


# --- the readers of this process ---


_lock = threading.Lock()
_readers: dict[str, Reader] = {}
_by_user = Index[Reader]()
_by_session = Index[Reader]()
_by_group = Index[Reader]()
#: All held readers, and possibly some that are not held any more.
_held: set[Reader] = set()
_recent: deque[Revocation] = deque(maxlen=RECENT)
_count = 0
#: The callback of each loop, see `on_hold()`.
_on_hold: dict[asyncio.AbstractEventLoop, Callable[[], None]] = {}


def revocation_count() -> int:
    """Return the number of revocations in this process so far, for `enter()`."""
    return _count


def enter(reader: Reader, since: int) -> bool:
    """Apply to `reader` the revocations after `since`, and all later ones.

    `since` is the `revocation_count()` before `reader` was admitted. If a right is only in doubt,
    the stream is held. Returns False if the stream must not be opened: a right has ended, `since`
    is too old to know, or another reader has the same id.
    """
    with _lock:
        if _readers.setdefault(reader.id, reader) is not reader:
            return False
        for index, key in _indexed(reader):
            index.add(key, reader)
        missed = _count - since
        recent = list(islice(reversed(_recent), missed))
    return len(recent) == missed and apply_missed(reader, recent)


def apply_missed(reader: Reader, revocations: Collection[Revocation]) -> bool:
    """Apply `revocations` to `reader`, whose stream is not open yet; see `enter()`."""
    missed = [revocation for revocation in revocations if reader.is_concerned(revocation)]
    if not all(revocation.review for revocation in missed):
        return False
    for revocation in missed:
        reader.revoke(revocation)
    return True


def leave(reader: Reader) -> None:
    """Apply no more revocations to `reader`. A second call does nothing."""
    with _lock:
        if _readers.get(reader.id) is not reader:
            return
        del _readers[reader.id]
        _held.discard(reader)
        for index, key in _indexed(reader):
            index.discard(key, reader)


def _indexed(reader: Reader) -> Iterator[tuple[Index[Reader], str]]:
    """Yield each index that has `reader`, with its key there."""
    if reader.user_key:
        yield _by_user, reader.revoked_by
    if reader.session_digest:
        yield _by_session, reader.session_digest
    for group in reader.stream.asked:  # The stream may have lost some of them.
        yield _by_group, group


def readers() -> list[Reader]:
    """Return the readers of this process."""
    return list(_readers.values())


def concerned(revocation: Revocation) -> list[Reader]:
    """Return the readers of this process that `revocation` concerns. Safe from any thread."""
    found: Collection[Reader]
    with _lock:
        if revocation.stream:
            found = [_readers[revocation.stream]] if revocation.stream in _readers else []
        elif revocation.user:
            found = _by_user.get(revocation.user)
        elif revocation.session:
            found = _by_session.get(revocation.session)
        elif revocation.group:
            found = _by_group.get(revocation.group)
        else:
            found = list(_readers.values())
    return [reader for reader in found if reader.is_concerned(revocation)]


def apply(revocation: Revocation) -> None:
    """Hold or end the streams of this process that `revocation` concerns. Safe from any thread."""
    global _count
    # Keep it before applying it, so that a reader that enters between the two finds it.
    with _lock:
        _recent.append(revocation)
        _count += 1
    for reader in concerned(revocation):
        reader.revoke(revocation)


def deliver_reply(reply: Reply) -> None:
    """Send a reply on its stream if the running loop serves the stream."""
    subscription = find(reply.stream)
    if subscription is not None:
        subscription.take_alone(reply)


def find(stream: str) -> Subscription | None:
    """Return the subscription of a stream that the running loop serves, by the stream's id."""
    reader = _readers.get(stream)
    if reader is None or reader.loop is not asyncio.get_running_loop():
        return None
    return reader.stream.subscription


# --- held readers ---


@contextmanager
def on_hold(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Iterator[None]:
    """Within the block, call `callback` on `loop` whenever a reader of that loop is held."""
    _on_hold[loop] = callback
    try:
        yield
    finally:
        if _on_hold.get(loop) is callback:
            del _on_hold[loop]


def held_readers(loop: asyncio.AbstractEventLoop) -> list[Reader]:
    """Return the readers of `loop` that are held."""
    with _lock:
        _held.difference_update([reader for reader in _held if not reader.held])
        return [reader for reader in _held if reader.loop is loop]


def _note_hold(reader: Reader) -> None:
    """Record that `reader` is held, and call its loop's callback, see `on_hold()`."""
    with _lock:
        if _readers.get(reader.id) is not reader:
            return
        _held.add(reader)
    if (callback := _on_hold.get(reader.loop)) is not None:
        _call(reader.loop, callback)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        pass  # The loop is closed, so its streams have ended.


def _forget() -> None:
    """Reset in a forked child, which has no streams and may have inherited a locked lock."""
    global _lock
    _lock = threading.Lock()
    for each in (_readers, _by_user, _by_session, _by_group, _held, _on_hold):
        each.clear()


at_fork(_forget)
