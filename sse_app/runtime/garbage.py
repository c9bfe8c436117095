"""The garbage collector of a process that serves streams."""

from __future__ import annotations

import gc
from typing import Final

#: Python's own first thresholds, up to 3.12 and since.
DEFAULTS: Final = (700, 2000)
#: After so many more new objects than freed ones, Python searches the new objects for cycles.
NEW_OBJECTS: Final = 10_000


def collect_rarely() -> None:
    """Let the garbage collector search less often, if the project has set no threshold.

    Thousands of streams that come at once are many new objects that stay. With Python's threshold a
    third of the time of these streams went into searches that found nothing.
    """
    first, *others = gc.get_threshold()
    if first in DEFAULTS:
        gc.set_threshold(NEW_OBJECTS, *others)
