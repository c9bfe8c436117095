"""`Breaker`: after a command got no answer, the next ones fail immediately for some seconds.

A log that hangs then costs a process one wait, and not one wait for each event.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from .failures import LogUnavailable

#: Seconds for which a log that did not answer is not asked.
PAUSE_SECONDS: Final = 5.0


class Breaker:
    """Guards the calls of one log. Any thread and any event loop may use it.

    `no_answer`: the exceptions of a call that got no answer in time. At the end of a pause one call
    is let through: its answer ends the pause for all, and while it has none, the next pause lasts.
    """

    def __init__(self, no_answer: tuple[type[Exception], ...]) -> None:
        self._no_answer = no_answer
        # Without a lock, which a forked child could inherit locked: if two threads read the end of
        # a pause together, two calls are let through.
        self._asked_at = 0.0
        self._until: float | None = None

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Run the block, which makes one call and may await it; raises `LogUnavailable`."""
        if self._until is not None:
            self._check(self._until)
        asked_at = time.time()
        try:
            yield
        except self._no_answer:
            if self._until is None:
                self._asked_at = asked_at
            self._until = time.monotonic() + PAUSE_SECONDS
            raise
        except Exception:
            self._until = None  # An error is an answer, and a refused connection fails immediately.
            raise
        except BaseException:
            if self._until is not None:
                self._until = time.monotonic()  # The call was cancelled: let the next one through.
            raise
        self._until = None

    def _check(self, until: float) -> None:
        now = time.monotonic()
        if now >= until:
            self._until = now + PAUSE_SECONDS
            return
        since = time.strftime("%H:%M:%S", time.gmtime(self._asked_at))
        raise LogUnavailable(
            f"The event log was not asked: it did not answer at {since} UTC, and is not asked "
            f"again for another {until - now:.1f} s."
        )
