"""The name of this process, in its logs, its metrics and its row."""

from __future__ import annotations

import secrets

from .forks import at_fork

_name = secrets.token_hex(6)


def process_name() -> str:
    """Return the name of this process: random, another one in a forked child."""
    return _name


def _rename() -> None:
    global _name
    _name = secrets.token_hex(6)


at_fork(_rename)
