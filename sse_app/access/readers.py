"""`Reader`: an open stream under the rights of its user; and the readers of this process.

A right that ends, or is in doubt, stops the stream in the thread of the call that says so, before
that call returns. `apply()` finds the readers by the user, session or stream that the revocation
names, so the end of one user's rights costs what that user's streams cost.
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

from ..delivery.streams import Stream
from ..protocol.replies import Reply
from ..runtime.forks import at_fork
from .admission import Access
from .authorization import is_public
from .fingerprints import Fingerprint
from .limits import Slots
from .revocations import Revocation
from .sessions import session_digest

#: By how much a replica may lag. A policy that may have read from one is asked again after that.
LAG_SECONDS: Final = 10.0
#: How many revocations are kept for streams that are being opened meanwhile.
RECENT: Final = 1000


class Reader:
    """Ends, holds and asks again for one stream. Used on its loop only, but for `revoke()`.

    `access` is what the stream was permitted, and `slots` what it takes of the limits: they are
    given back when the stream ends.
    """

    __slots__ = (
        "_revoked",
        "_settles_at",
        "_slots",
        "_told",
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
        #: Whether a signal told of a change that the fingerprint may not show.
        self._told = False
        #: Until then the policy may have seen a replica that lags.
        self._settles_at = _lag_ends()
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
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that serves the stream."""
        return self.stream.hub.loop

    @property
    def held(self) -> int:
        """The number of the hold that is in force, 0 if the stream is not held."""
        return self.stream.subscription.held

    def is_concerned(self, revocation: Revocation) -> bool:
        """Whether `revocation` is about this reader."""
        if revocation.stream and revocation.stream != self.id:
            return False
        if revocation.user and revocation.user != self.user_key:
            return False
        if revocation.session and revocation.session != self.session_digest:
            return False
        if revocation.group and revocation.group not in self.stream.groups:
            return False
        return bool(self.user_key) or not revocation.review

    def revoke(self, revocation: Revocation) -> None:
        """Show nothing more of what is lost or in doubt, from now on. Called from any thread."""
        if revocation.group and not revocation.review:
            self._revoked.append(revocation.group)
        if revocation.review:
            self._told = True
        if revocation.group or revocation.review:
            self.stream.subscription.hold()
            _ask_soon(self)
        else:
            # A session that ends takes nothing that is public; `disconnect()` takes everything.
            reason, groups = self._signed_out() if revocation.session else ("auth", ())
            self.stream.mute(reason, groups)
            _call(self.loop, partial(self.stream.close, reason, groups))

    def release(self, held: int) -> None:
        """Continue the stream, unless it was held again since `held` was read."""
        self.stream.subscription.release(held)

    async def lose_revoked(self) -> None:
        """Leave the groups that were revoked."""
        while self._revoked:
            await self._lose(self._revoked.pop())

    async def readmit(self, fingerprint: Fingerprint) -> None:
        """Ask the policy again if the user's rights have changed, or a signal told of a change."""
        before, told, settles_at = self.access.fingerprint, self._told, self._settles_at
        if before is None or fingerprint.password != before.password:
            self.sign_out()
            return
        changed = fingerprint != before
        if not (changed or told or settles_at):
            return
        self._told = False
        if changed or told:
            self._settles_at = _lag_ends()
        elif time.monotonic() >= settles_at:
            self._settles_at = 0.0
        try:
            for group in await self._lost(changed=changed):
                await self._lose(group)
        except BaseException:
            # Asked again in the next round. A signal may have told of a change meanwhile.
            self._told, self._settles_at = self._told or told, settles_at
            raise
        self.access.fingerprint = fingerprint

    def sign_out(self) -> None:
        """End the stream, as its user or session is no longer the one that opened it."""
        self.stream.close(*self._signed_out())

    async def _lost(self, *, changed: bool) -> set[str]:
        """Return the groups that the user may not listen to any more, by what permits them now.

        A signed page's groups are the policy's only once the user's rights have `changed`.
        """
        access = self.access
        if changed:
            access.granted = frozenset()
        asked = set(self.stream.groups) - access.granted
        if not asked:
            return set()
        try:
            await access.refresh()
        except ObjectDoesNotExist:  # The user was deleted a moment ago.
            self.sign_out()
            return set()
        self.stream.user = access.user
        return asked - set(await access.permitted(asked))

    def _signed_out(self) -> tuple[str, Collection[str]]:
        """Return why the stream ends, and of which groups, when its user has signed out.

        A stream of public groups reconnects at once, as the present user.
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
    """Return until when, by the monotonic clock, a policy that is asked now may see old rights.

    0 where no database router can lead the policy to a replica.
    """
    return time.monotonic() + LAG_SECONDS if django_settings.DATABASE_ROUTERS else 0.0


# --- the readers of this process ---


class Index:
    """Readers by a key that several may share. Most keys have one reader, which needs no set."""

    def __init__(self) -> None:
        self._found: dict[str, Reader | set[Reader]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def get(self, key: str) -> list[Reader]:
        """Return the readers with this `key`."""
        found = self._found.get(key, ())
        return [found] if isinstance(found, Reader) else list(found)

    def add(self, key: str, reader: Reader) -> None:
        """Let `key` find `reader` too."""
        found = self._found.setdefault(key, reader)
        if isinstance(found, set):
            found.add(reader)
        elif found is not reader:
            self._found[key] = {found, reader}

    def discard(self, key: str, reader: Reader) -> None:
        """Let `key`, which finds `reader`, find it no more."""
        found = self._found[key]
        if isinstance(found, set):
            found.discard(reader)
        if not found or found is reader:
            del self._found[key]

    def clear(self) -> None:
        """Find nothing."""
        self._found.clear()


_lock = threading.Lock()
_readers: dict[str, Reader] = {}
_by_user = Index()
_by_session = Index()
#: The readers that were held since the last call of `held_readers()`, or still are.
_held: set[Reader] = set()
_recent: deque[Revocation] = deque(maxlen=RECENT)
_count = 0
#: What asks again for the held readers of a loop, by the loop.
_askers: dict[asyncio.AbstractEventLoop, Callable[[], None]] = {}


def mark() -> int:
    """Return how many revocations there have been in this process, for `enter()`."""
    return _count


def enter(reader: Reader, since: int) -> bool:
    """Apply revocations to `reader` from now on, and first those that came after `since`.

    It was admitted after `since`, and by what was true then. Returns False, and it must not be
    opened, if its right has ended, if that can't be told any more, or if another has its id. Where
    it is only in doubt it is held, as an open one would be.
    """
    with _lock:
        if _readers.setdefault(reader.id, reader) is not reader:
            return False
        for index, key in _indexed(reader):
            index.add(key, reader)
        missed = _count - since
        recent = list(islice(reversed(_recent), missed))
    return len(recent) == missed and tell(reader, recent)


def tell(reader: Reader, revocations: Collection[Revocation]) -> bool:
    """Let `reader`, which is not open yet, know of `revocations`; see `enter()`."""
    missed = [told for told in revocations if reader.is_concerned(told)]
    if not all(told.review for told in missed):
        return False
    for told in missed:
        reader.revoke(told)
    return True


def leave(reader: Reader) -> None:
    """Apply no more revocations to `reader`. Safe to call twice."""
    with _lock:
        if _readers.get(reader.id) is not reader:
            return
        del _readers[reader.id]
        _held.discard(reader)
        for index, key in _indexed(reader):
            index.discard(key, reader)


def _indexed(reader: Reader) -> Iterator[tuple[Index, str]]:
    """Yield each index that has `reader`, with its key there."""
    if reader.user_key:
        yield _by_user, reader.user_key
    if reader.session_digest:
        yield _by_session, reader.session_digest


def readers() -> list[Reader]:
    """Return the readers of this process."""
    return list(_readers.values())


def concerned(revocation: Revocation) -> list[Reader]:
    """Return the readers of this process that `revocation` is about. From any thread."""
    found: Collection[Reader]
    with _lock:
        if revocation.stream:
            found = [_readers[revocation.stream]] if revocation.stream in _readers else []
        elif revocation.user:
            found = _by_user.get(revocation.user)
        elif revocation.session:
            found = _by_session.get(revocation.session)
        else:
            found = list(_readers.values())
    return [reader for reader in found if reader.is_concerned(revocation)]


def apply(revocation: Revocation) -> None:
    """Hold or end the streams of this process that `revocation` concerns. From any thread."""
    global _count
    # First kept, then applied: a reader that enters between the two finds the kept one.
    with _lock:
        _recent.append(revocation)
        _count += 1
    for reader in concerned(revocation):
        reader.revoke(revocation)


def hand_over(reply: Reply) -> None:
    """Give a reply to its stream, if the running loop has it."""
    reader = _readers.get(reply.stream)
    if reader is not None and reader.loop is asyncio.get_running_loop():
        reader.stream.take(reply)


# --- the readers that are held ---


@contextmanager
def asking(loop: asyncio.AbstractEventLoop, soon: Callable[[], None]) -> Iterator[None]:
    """Within the block, have `soon` called on `loop` when a reader of that loop is held."""
    _askers[loop] = soon
    try:
        yield
    finally:
        if _askers.get(loop) is soon:
            del _askers[loop]


def held_readers(loop: asyncio.AbstractEventLoop) -> list[Reader]:
    """Return the readers of `loop` that are held."""
    with _lock:
        _held.difference_update([reader for reader in _held if not reader.held])
        return [reader for reader in _held if reader.loop is loop]


def _ask_soon(reader: Reader) -> None:
    """Have the rights of a reader asked for again that was held a moment ago."""
    with _lock:
        if _readers.get(reader.id) is not reader:
            return
        _held.add(reader)
    if (soon := _askers.get(reader.loop)) is not None:
        _call(reader.loop, soon)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        pass  # The loop has closed, and its streams with it.


def _forget() -> None:
    """In a forked child: it has none of the parent's streams, and the lock may be taken."""
    global _lock
    _lock = threading.Lock()
    for each in (_readers, _by_user, _by_session, _held, _askers):
        each.clear()


at_fork(_forget)
