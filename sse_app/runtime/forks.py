"""`at_fork()`: clears state that a forked child process must not share with its parent."""

from __future__ import annotations

import os
from collections.abc import Callable


def at_fork(callback: Callable[[], object]) -> None:
    """Call `callback` in each forked child process, before any other code runs there.

    Does nothing on systems without fork.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=callback)
