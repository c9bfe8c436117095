"""Twelve clients of other people, each with a driver, and what is known of its limits.

`docs/delivery/clients.md` says the same to users; `tests/servers/test_clients.py` finds out whether
it is so.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent
NODE_MODULES = FOLDER / "node_modules"

CONTROL = ("sse.open", "sse.reset", "sse.close", "sse.busy", "sse.cursor")
NAMES = ("message", "order.updated", "edge", "mark", *CONTROL)

#: Data that is easily spoilt, by what is special about it.
EDGES = {
    "empty": "",
    "indented": "  two spaces",
    "begins with a line feed": "\nsecond",
    "ends with line feeds": "first\n\n",
    "begins with a byte order mark": "\ufefftext",
    "looks like a field": "id: 7",
}


@dataclass(frozen=True)
class Client:
    """One client and how it differs from the HTML Standard, as far as it can be seen here."""

    name: str
    driver: str
    runs_on: str
    sends_headers: bool = True
    #: Whether an event that has no id is shown with the last one, as in a browser.
    keeps_id: bool = True
    #: Whether it stays away as long as `retry:` says.
    hears_retry: bool = True
    #: Whether it asks again after 403.
    insists: bool = False
    #: What it makes of `EDGES`, where that differs from what was sent.
    spoils: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name in URLs and folders."""
        return f"{self.runs_on}-{self.driver}"


_STRIPPED = {"indented": "two spaces", "ends with line feeds": "first"}
_UNMARKED = {"begins with a line feed": "second", "begins with a byte order mark": "text"}

CLIENTS = (
    Client("browser EventSource", "browser_eventsource", "page", sends_headers=False),
    Client("npm eventsource", "eventsource", "node", keeps_id=False),
    Client("npm eventsource-client", "eventsource_client", "node", keeps_id=False, insists=True),
    Client(
        "npm @microsoft/fetch-event-source",
        "fetch_event_source",
        "page",
        keeps_id=False,
        spoils=_UNMARKED,
    ),
    Client(
        "npm reconnecting-eventsource",
        "reconnecting_eventsource",
        "page",
        sends_headers=False,
        insists=True,
    ),
    Client("npm launchdarkly-eventsource", "launchdarkly_eventsource", "node"),
    Client("PyPI httpx-sse", "httpx_sse", "python"),
    Client("PyPI sseclient-py", "sseclient_py", "python", keeps_id=False),
    Client("PyPI requests-sse", "requests_sse", "python", spoils=_STRIPPED),
    Client("PyPI aiohttp-sse-client2", "aiohttp_sse_client2", "python", spoils=_STRIPPED),
    Client(
        "PyPI launchdarkly-eventsource", "launchdarkly_eventsource", "python", hears_retry=False
    ),
    Client("curl", "curl", "python"),
)
#: Those that this machine can run: curl is the one that no package brings.
PRESENT = tuple(one for one in CLIENTS if one.driver != "curl" or shutil.which("curl"))
