"""`Case`: an application on a server, and all that are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ..publishers import GROUP

MEMORY_LOG: Final = "sse_app.eventlog.MemoryEventLog"
DATABASE_LOG: Final = "sse_app.eventlog.DatabaseEventLog"


@dataclass(frozen=True)
class Case:
    """`application` is a module of `apps` and its name there; `layer` the kind of channel layer.

    `primary`: long phases are measured in every second round and not in the first alone. `phases`:
    the only ones that are measured. `signed_in`: each stream has a session of its own.
    """

    title: str
    server: Literal["daphne", "uvicorn", "nginx", "c"]
    application: Literal["own", "raw", "textbook", "eventstream", "starlette", "nchan", "floor"]
    layer: Literal["memory", "pubsub", "core"] = "memory"
    log: str = MEMORY_LOG
    primary: bool = False
    signed_in: bool = False
    phases: frozenset[str] = frozenset()
    database: Literal["sqlite", "postgresql"] = "sqlite"
    #: Which checkout of this app it runs.
    checkout: str = ""

    @property
    def path(self) -> str:
        """The address of the streams."""
        paths = {"own": f"/events/?group={GROUP}", "eventstream": "/events/"}
        return {**paths, "nchan": f"/sub?id={GROUP}"}.get(self.application, "/")

    @property
    def own_path(self) -> tuple[str, str]:
        """The address of streams with own groups, and the text between two groups in it."""
        if self.application == "nchan":
            return "/sub?id={groups}", ","
        if self.application == "eventstream":
            return "/own/?channel={groups}", "&channel="
        return f"{'/events/' if self.ours else '/'}?group={{groups}}", "&group="

    @property
    def slow(self) -> bool:
        """Whether this case is known to be slower than the pace of the others."""
        return self.application == "textbook"

    @property
    def ours(self) -> bool:
        """Whether the case is this app."""
        return self.application == "own"

    @property
    def bare(self) -> bool:
        """Whether the case is the server alone."""
        return self.application == "raw"


OWN: Final = Case("this app on Daphne", "daphne", "own", primary=True)
SIGNED_IN: Final = Case(
    "this app on Daphne, signed in",
    "daphne",
    "own",
    primary=True,
    signed_in=True,
    phases=frozenset({"idle", "connects"}),
)
SQLITE: Final = Case("this app on Daphne, SQLite log", "daphne", "own", log=DATABASE_LOG)
TEXTBOOK: Final = Case("textbook consumer on Daphne", "daphne", "textbook")
EVENTSTREAM: Final = Case("django-eventstream on Daphne", "daphne", "eventstream")
RAW_DAPHNE: Final = Case("raw ASGI on Daphne", "daphne", "raw", primary=True)
RAW_UVICORN: Final = Case("raw ASGI on uvicorn", "uvicorn", "raw")

CASES: Final = (
    OWN,
    RAW_DAPHNE,
    Case("this app on Daphne, Redis layer", "daphne", "own", "pubsub"),
    RAW_UVICORN,
    SIGNED_IN,
    Case("this app on uvicorn", "uvicorn", "own"),
    SQLITE,
    TEXTBOOK,
    Case("textbook consumer on Daphne, Redis layer", "daphne", "textbook", "core"),
    EVENTSTREAM,
    Case("django-eventstream on uvicorn", "uvicorn", "eventstream"),
    Case("sse-starlette on uvicorn", "uvicorn", "starlette"),
)
