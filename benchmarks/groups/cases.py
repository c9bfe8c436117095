"""All servers that are compared, and the earlier version of this app beside them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..fanout.cases import DATABASE_LOG, MEMORY_LOG, Case

REDIS_LOG: Final = "sse_app.eventlog.RedisEventLog"
#: The module of Debian's package libnginx-mod-nchan.
NCHAN_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
#: How the titles of the other checkout begin.
BEFORE: Final = "before: "

OURS: Final = (
    Case("this app, memory log", "daphne", "own", log=MEMORY_LOG),
    Case("this app, SQLite log", "daphne", "own", log=DATABASE_LOG),
    Case(
        "this app, PostgreSQL log, Redis layer",
        "daphne",
        "own",
        layer="pubsub",
        log=DATABASE_LOG,
        database="postgresql",
    ),
    Case("this app, Redis log and layer", "daphne", "own", layer="pubsub", log=REDIS_LOG),
)
EVENTSTREAM: Final = Case("django-eventstream on uvicorn", "uvicorn", "eventstream")
NCHAN: Final = Case("nginx with nchan", "nginx", "nchan")
FLOOR: Final = Case("C, one epoll", "c", "floor")
RIVALS: Final = (EVENTSTREAM, NCHAN, Case("raw ASGI on Daphne", "daphne", "raw"), FLOOR)


def missing() -> dict[Case, str]:
    """Return the cases that this machine can't run, and what they need."""
    found = {}
    if not NCHAN_MODULE.exists() or shutil.which("nginx") is None:
        found[NCHAN] = "nginx with nchan (Debian's libnginx-mod-nchan)"
    if shutil.which("cc") is None:
        found[FLOOR] = "a C compiler"
    return found


def cases(before: bool, titles: Sequence[str] = ()) -> list[Case]:
    """Return the cases; `before`: those of the other checkout too, each beside its like.

    `titles`: only cases whose title has one of these.
    """
    found: list[Case] = []
    for case in OURS:
        found.append(case)
        if before:
            found.append(replace(case, title=BEFORE + case.title, checkout="before"))
    found += [case for case in RIVALS if case not in missing()]
    return [case for case in found if not titles or any(part in case.title for part in titles)]
