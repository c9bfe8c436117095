"""`RareLog`: writes messages of one kind at most once a minute.

An outage concerns each event, group and stream of a process. One line for each of them would hide
the first line, fill the disk and delay the event loop.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any, Final

from .forks import at_fork

#: The time between two lines of one kind.
SECONDS: Final = 60.0


_all: list[RareLog] = []


class RareLog:
    """Lines of one kind for `logger`. Made once, by a module. Any thread may use it."""

    def __init__(self, logger: logging.Logger, level: int = logging.WARNING) -> None:
        self._logger = logger
        self._level = level
        self._forget()
        _all.append(self)

    def _forget(self) -> None:
        self._next: dict[str, float] = {}
        self._left_out: Counter[str] = Counter()

    def __call__(self, text: str, *args: object, key: str = "", **options: Any) -> None:
        """Write a line, unless one was written less than a minute ago; then only count it.

        The line ends with the number of lines that were left out before it. `key`: lines with
        different keys are of different kinds; the caller has a fixed number of keys. `options`:
        `extra` and `exc_info`, see `logging.Logger.log()`.
        """
        # Without a lock, which greenlets and real threads could not share. So two threads that call
        # together may write a line each.
        now = time.monotonic()
        if now < self._next.get(key, 0.0):
            self._left_out[key] += 1
            return
        self._next[key] = now + SECONDS
        left_out = self._left_out.pop(key, 0)
        if left_out:
            text, args = f"{text} (%d more such lines were left out.)", (*args, left_out)
        self._logger.log(self._level, text, *args, stacklevel=2, **options)


def forget() -> None:
    """Write the next line of each kind, whenever the last one was written; as a forked child."""
    for log in _all:
        log._forget()


at_fork(forget)
