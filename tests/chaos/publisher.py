"""A process that publishes until it is told to stop, and notes what was acknowledged.

`python -m tests.chaos.publisher NAME FILE SEED GROUP…` with a server's environment. Each
line of the file is one event, with the times at which its publishing began and ended: `ok` if its
publish returned or its transaction committed, `left` if it committed and was left to the sweep,
`no` if its transaction was rolled back. What raised is unknown and not noted: it may be in the log.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from typing import NamedTuple

import django
from django.db import transaction

PAUSE = (0.0, 0.1)
MOST_TOGETHER = 3
ROLLED_BACK = 0.1
#: How often a publisher dies between the commit and the numbering of what it committed: no kill
#: from outside hits that moment often enough.
DIES_COMMITTED = 0.004


class Made(NamedTuple):
    """One event, and when its publishing began."""

    group: str
    data: str
    begun: float


class RolledBack(Exception):
    """Raised to roll back a transaction on purpose."""


class Publisher:
    """Publishes events named after their group, with data `<name>:<n>`."""

    def __init__(self, name: str, path: str, seed: str, groups: list[str]) -> None:
        from sse_app.eventlog import event_log
        from sse_app.signals import event_published

        self.name = name
        self.groups = groups
        self.random = random.Random(f"{seed} {name}")
        self.count = 0
        # One write per line, which a kill can't tear.
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        # A log outside the database takes the events right after the commit: it answers by this
        # signal, as the commit says nothing about it.
        self.by_signal = event_log().alias is None
        self.taken: set[str] = set()
        event_published.connect(self._take)

    def publish_some(self) -> None:
        """Publish one event, or a few in a transaction that may be rolled back."""
        if self.random.random() < 0.5:
            self._note("ok", [self._publish()])
            return
        made: list[Made] = []
        roll_back = self.random.random() < ROLLED_BACK
        self.taken.clear()
        try:
            with transaction.atomic():
                if self.random.random() < DIES_COMMITTED and not self.by_signal:
                    transaction.on_commit(lambda: self._die_committed(made))
                made += [self._publish() for _ in range(self.random.randint(1, MOST_TOGETHER))]
                if roll_back:
                    raise RolledBack
        except RolledBack:
            self._note("no", made)
        else:
            self._note("ok", [e for e in made if not self.by_signal or e.data in self.taken])

    def _publish(self) -> Made:
        from sse_app import publish

        self.count += 1
        made = Made(self.random.choice(self.groups), f"{self.name}:{self.count}", time.monotonic())
        publish(made.group, made.group, made.data)
        return made

    def _die_committed(self, made: list[Made]) -> None:
        self._note("left", made)
        os.kill(os.getpid(), signal.SIGKILL)

    def _take(self, event: object, **kwargs: object) -> None:
        self.taken.add(getattr(event, "data", ""))

    def _note(self, answer: str, events: list[Made]) -> None:
        now = time.monotonic()
        for group, data, begun in events:
            os.write(self.file, f"{answer} {begun} {now} {group} {data}\n".encode())


def main() -> None:
    """Publish until SIGTERM; what fails is given up, and the next event is a new one."""
    name, path, seed, *groups = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    django.setup()
    publisher = Publisher(name, path, seed, groups)
    while not stop.wait(publisher.random.uniform(*PAUSE)):
        try:
            publisher.publish_some()
        except Exception as error:
            print(f"{name}: {error!r}", file=sys.stderr)


if __name__ == "__main__":
    main()
