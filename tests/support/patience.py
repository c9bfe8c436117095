"""How long a test waits for something that happens at once on an idle machine."""

from __future__ import annotations

from typing import Final

#: Seconds. Only bounds a hang, so it is far longer than any answer takes on a loaded machine.
PATIENCE: Final = 60.0
