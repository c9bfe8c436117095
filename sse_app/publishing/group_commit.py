"""`GroupCommit`: threads that publish at the same moment share one append, and so one commit.

A caller appends its events immediately, as without this module, unless another caller appends to
the same group, or several do to other groups. Then it waits, and one of those that wait appends the
events of all of them. So threads do not wait for each other's locks in the database.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
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

_Outcome = list[Event] | BaseException


class _Caller:
    """A thread that publishes: its calls, each with its events, and their outcome."""

    def __init__(self, calls: Sequence[Sequence[Event]]) -> None:
        self.calls = calls
        self.size = sum(map(len, calls))
        #: The groups of these events; of a caller that leads, the groups of its batch.
        self.groups = {event.group for events in calls for event in events}
        #: The callers for whom this one appends.
        self.batch: list[_Caller] = []
        self.leads = self.taken = self.done = self.alone = False
        #: The events of these calls, after staged ones that the append numbered, and their outbox.
        self.sent: list[Event] = []
        self.queue: outbox.Outbox | None = None
        self.error: BaseException | None = None
        self._woken: threading.Lock | None = None

    def begin_to_wait(self) -> None:
        """Prepare `wait()`, before any other thread can call `wake()`."""
        self._woken = threading.Lock()
        self._woken.acquire()

    def wait(self) -> bool:
        """Wait until `wake()` was called; return False after a while, unless another one leads."""
        assert self._woken is not None
        return self._woken.acquire(timeout=-1 if self.taken else PATIENCE_SECONDS)

    def wake(self) -> None:
        """Let the caller continue; another call does nothing."""
        if self._woken is not None and self._woken.locked():
            self._woken.release()


class GroupCommit:
    """Appends to one log for all threads of the process, in batches.

    A caller leads for one batch. The batches that are appended at the same time have no group in
    common: so the events of a group leave in the order of their offsets. `_leave()` passes the lead
    on to the caller that has waited longest, also if an exception ends the leader.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leaders: list[_Caller] = []
        self._waiting: list[_Caller] = []

    def publish_each(self, log: EventLog, calls: Sequence[Sequence[Event]]) -> list[_Outcome]:
        """Append the events of each call to `log` and send them; return the outcomes of the calls.

        An outcome is the events with their positions, or the error of the log: then none of these
        events was published, unless the error says that this is unknown. An error that concerns
        other events only is not an outcome.
        """
        caller = _Caller(calls)
        try:
            self._enter(log, caller)
            while not caller.done:
                if caller.leads:
                    self._lead(log, caller)
                elif not caller.wait():
                    self._take_the_lead(caller)
        finally:
            # Twice, because an exception of a signal handler, as after Ctrl-C, may end the first.
            try:
                self._leave(log, caller)
            finally:
                self._leave(log, caller)
        return self._outcomes(log, caller)

    def _enter(self, log: EventLog, caller: _Caller) -> None:
        with self._lock:
            if self._may_lead(log, caller):
                self._let_lead(caller)
            else:
                caller.begin_to_wait()
                self._waiting.append(caller)

    def _may_lead(self, log: EventLog, caller: _Caller) -> bool:
        return len(self._leaders) < log.appends_at_once() and _is_apart(caller, self._leaders)

    def _let_lead(self, caller: _Caller) -> None:
        if caller in self._waiting:
            self._waiting.remove(caller)
        self._leaders.append(caller)
        caller.leads = True
        caller.wake()

    def _take_the_lead(self, caller: _Caller) -> None:
        """Lead beside leaders that take long, perhaps because a head is locked."""
        with self._lock:
            if not caller.taken and not caller.leads:
                self._let_lead(caller)

    def _lead(self, log: EventLog, caller: _Caller) -> None:
        batch = self._take(caller, log.most_together)
        calls = [events for one in batch for events in one.calls]
        try:
            if len(calls) == 1:
                numbered: list[Event] | None = log.append(calls[0])
            else:
                numbered = log.append_together(calls)
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
            caller.batch = [caller]
            others = [one for one in self._leaders if _is_apart(one, [caller])]
            room = most - caller.size
            for one in [*self._waiting]:
                if one.size <= room and _is_apart(one, others):
                    caller.batch.append(one)  # First, so that an interruption here loses no caller.
                    self._waiting.remove(one)
                    caller.groups |= one.groups
                    room -= one.size
                    one.taken = True
        return caller.batch

    def _leave(self, log: EventLog, caller: _Caller) -> None:
        """Pass on the lead, and give the batch its outcome."""
        if caller.taken:
            return
        with self._lock:
            for callers in (self._waiting, self._leaders):
                if caller in callers:
                    callers.remove(caller)
            for one in [*self._waiting]:
                if self._may_lead(log, one):
                    self._let_lead(one)
        for one in caller.batch[1:]:
            if not caller.done:
                one.error = _INTERRUPTED
            one.done = True
            one.wake()

    def _outcomes(self, log: EventLog, caller: _Caller) -> list[_Outcome]:
        if caller.alone:
            return [_append_alone(log, events) for events in caller.calls]
        if caller.error is not None:
            # Copies, because two must not raise one object: each adds its traceback.
            outcomes: list[_Outcome] = [_copy(caller.error) for _ in caller.calls]
            return [caller.error, *outcomes[1:]] if caller.leads else outcomes
        outbox.announce(caller.queue, caller.sent)
        own = iter(caller.sent[-caller.size :])
        return [[*islice(own, len(events))] for events in caller.calls]


def _is_apart(caller: _Caller, others: Sequence[_Caller]) -> bool:
    """Return whether the caller has no group in common with one of the others."""
    return all(one.groups.isdisjoint(caller.groups) for one in others)


def _copy(error: BaseException) -> BaseException:
    copied = copy.copy(error)
    copied.__cause__ = error
    return copied


def _append_alone(log: EventLog, events: Sequence[Event]) -> _Outcome:
    try:
        numbered = log.append(events)
    except Exception as error:
        return error
    outbox.send(numbered)
    return numbered[-len(events) :]


def _share_out(numbered: list[Event], batch: Sequence[_Caller]) -> None:
    """Queue what an append returned for the channel layer, and give each caller its events."""
    # Here and not by each caller: the events then leave in the order of their offsets.
    queue = outbox.queue(numbered)
    start = len(numbered) - sum(one.size for one in batch)
    for one in batch:
        end = start + one.size
        one.queue, one.sent, start = queue, numbered[start:end], end
    # Events that were staged before belong to no caller: the leader calls the receivers for them.
    batch[0].sent = numbered[: len(numbered) - sum(one.size for one in batch[1:])]


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


def publish_each(log: EventLog, calls: Sequence[Sequence[Event]]) -> list[_Outcome]:
    """See `GroupCommit.publish_each()`; for the logs in the same database."""
    with timed(calls[0]):
        return _of_alias[log.alias].publish_each(log, calls)


@contextmanager
def timed(events: Sequence[Event]) -> Iterator[None]:
    """Measure the time of a publish that raises nothing, unless `events` are the app's own."""
    began = perf_counter()
    yield
    if events[0].group != CONTROL_GROUP:
        COUNTS.publish_seconds.observe(perf_counter() - began)
