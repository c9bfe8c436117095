"""`GroupCommit`: threads that publish at the same moment share one append, and so one commit.

The first caller appends its events immediately, as without this module. The callers that come
meanwhile wait; then one of them appends the events of all of them. So the threads of a process
write to the log one after another, and never wait for each other's locks there.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Final

from django.db import OperationalError

from ..eventlog import EventLog
from ..protocol.events import Event
from ..protocol.groups import CONTROL_GROUP
from ..runtime.forks import at_fork
from ..runtime.native import has_greenlets
from ..runtime.telemetry import COUNTS
from . import outbox

#: A caller that has waited for the append of another for so long appends at the same time.
PATIENCE_SECONDS: Final = 0.2


class _Caller:
    """One call that publishes: its events, and its outcome."""

    __slots__ = ("alone", "batch", "done", "error", "events", "queue", "sent", "taken", "woken")

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        #: The callers for whom this one appends.
        self.batch: list[_Caller] = []
        self.taken = self.done = self.alone = False
        #: The events of this call, after staged ones that the append numbered, and their outbox.
        self.sent: list[Event] = []
        self.queue: outbox.Outbox | None = None
        self.error: BaseException | None = None
        self.woken: threading.Lock | None = None

    def wait(self, seconds: float) -> bool:
        """Wait until `wake()` was called, at most `seconds`; return whether it was."""
        assert self.woken is not None
        return self.woken.acquire(timeout=seconds)

    def wake(self) -> None:
        """Let the caller continue; another call does nothing."""
        if self.woken is not None and self.woken.locked():
            self.woken.release()


class GroupCommit:
    """Appends to one log for all threads of the process, in batches. At most one of them appends.

    One caller leads at a time, for one batch. Then the caller that has waited longest leads the
    next batch. `_leave()` passes the lead on, also if an exception ends the leader.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leader: _Caller | None = None
        self._waiting: deque[_Caller] = deque()

    def publish_each(
        self, log: EventLog, batches: Sequence[Sequence[Event]]
    ) -> list[list[Event] | BaseException]:
        """Append the events of each call to `log` and send them; return the outcomes of the calls.

        An outcome is the events with their positions, or the error of the log: then none of these
        events was published, unless the error says that this is unknown. An error that concerns
        other events only is not an outcome.
        """
        callers = [_Caller(events) for events in batches]
        try:
            self._enter(callers)
            for caller in callers:
                while not caller.done:
                    if self._leads(caller):
                        self._lead(log, caller)
                    elif not caller.wait(-1 if caller.taken else PATIENCE_SECONDS):
                        self._take_the_lead(caller)
                self._leave(caller)
        finally:
            # Twice, because an exception of a signal handler, as after Ctrl-C, may end the first.
            try:
                self._leave(*callers)
            finally:
                self._leave(*callers)
        return [self._outcome(log, caller) for caller in callers]

    def _enter(self, callers: Sequence[_Caller]) -> None:
        first, *others = callers
        with self._lock:
            if self._leader is None:
                self._leader = first
            else:
                others = [*callers]
            for caller in others:
                caller.woken = threading.Lock()
                caller.woken.acquire()
                self._waiting.append(caller)

    def _leads(self, caller: _Caller) -> bool:
        # With the lock: the caller that wakes this one holds it until this one is the leader.
        with self._lock:
            return self._leader is caller

    def _take_the_lead(self, caller: _Caller) -> None:
        """Lead in place of a leader that takes long, perhaps because a head is locked."""
        with self._lock:
            if not caller.taken:
                self._leader = caller

    def _lead(self, log: EventLog, caller: _Caller) -> None:
        batch = self._take(caller, log.most_together)
        try:
            if len(batch) == 1:
                numbered: list[Event] | None = log.append(caller.events)
            else:
                numbered = log.append_together([one.events for one in batch])
        except Exception as error:
            for one in batch:
                one.error = error
        else:
            if numbered is None:
                for one in batch:
                    one.alone = True
            else:
                _share_out(numbered, batch)
        caller.done = True

    def _take(self, caller: _Caller, most: int) -> list[_Caller]:
        """Return the caller, and the waiting callers whose events fit into the same append."""
        with self._lock:
            if caller.woken is not None:
                self._waiting.remove(caller)
            caller.batch.append(caller)
            room = most - len(caller.events)
            while self._waiting and len(self._waiting[0].events) <= room:
                one = self._waiting.popleft()
                caller.batch.append(one)
                room -= len(one.events)
            for one in caller.batch:
                one.taken = True
        return caller.batch

    def _leave(self, *callers: _Caller) -> None:
        """Pass on the lead, and give the batches their outcomes."""
        with self._lock:
            for caller in callers:
                if not caller.taken and caller in self._waiting:
                    self._waiting.remove(caller)
            if self._leader in callers:
                following = self._waiting[0] if self._waiting else None
                if following is not None:
                    following.wake()  # First, so that an interruption here loses no caller.
                self._leader = following
        for caller in callers:
            for one in caller.batch:
                if one is not caller:
                    if not caller.done:
                        one.error = _INTERRUPTED
                    one.done = True
                    one.wake()

    def _outcome(self, log: EventLog, caller: _Caller) -> list[Event] | BaseException:
        if caller.error is not None:
            # A copy, because threads must not raise one object: each adds its traceback.
            if caller.batch:
                return caller.error
            error = copy.copy(caller.error)
            error.__cause__ = caller.error
            return error
        if caller.alone:
            try:
                caller.sent = log.append(caller.events)
            except Exception as error:
                return error
            outbox.send(caller.sent)
        else:
            outbox.announce(caller.queue, caller.sent)
        return caller.sent[-len(caller.events) :]


def _share_out(numbered: list[Event], batch: Sequence[_Caller]) -> None:
    """Queue what an append returned for the channel layer, and give each caller its events."""
    # Here and not by each caller: the events then leave in the order of their offsets.
    queue = outbox.queue(numbered)
    start = len(numbered) - sum(len(one.events) for one in batch)
    for one in batch:
        end = start + len(one.events)
        one.queue, one.sent, start = queue, numbered[start:end], end
    # Events that were staged before belong to no caller: the leader calls the receivers for them.
    batch[0].sent = numbered[: len(numbered) - sum(len(one.events) for one in batch[1:])]


_INTERRUPTED: Final = OperationalError(
    "The thread that wrote this event together with its own was interrupted: the event may have "
    "been published."
)

_of_alias: defaultdict[str | None, GroupCommit] = defaultdict(GroupCommit)
#: A forked child has none of the threads that lead and wait.
at_fork(_of_alias.clear)


def shares(log: EventLog, events: Sequence[Event]) -> bool:
    """Return whether this thread may publish `events` by `publish()`, together with other threads.

    Not in the thread of an event loop, which must not wait, and not among greenlets: they may run
    in one thread, where a lock of another thread would stop all of them.
    """
    return (
        len(events) <= log.most_together
        and asyncio._get_running_loop() is None
        and not has_greenlets()
        and log.joins(events)
    )


def publish(log: EventLog, events: Sequence[Event]) -> list[Event]:
    """Publish `events`; return them with their positions, or raise the error of the log."""
    (outcome,) = publish_each(log, [events])
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def publish_each(
    log: EventLog, batches: Sequence[Sequence[Event]]
) -> list[list[Event] | BaseException]:
    """See `GroupCommit.publish_each()`; for the logs in the same database."""
    with timed(batches[0]):
        return _of_alias[log.alias].publish_each(log, batches)


@contextmanager
def timed(events: Sequence[Event]) -> Iterator[None]:
    """Measure the time of a publish that raises nothing, unless `events` are the app's own."""
    began = perf_counter()
    yield
    if events[0].group != CONTROL_GROUP:
        COUNTS.publish_seconds.observe(perf_counter() - began)
