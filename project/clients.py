"""The clients that were tested, as the documentation lists them."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

from django.conf import settings

PAGE: Final = "docs/delivery/clients.md"
_ROW: Final = re.compile(r"^\| ((?:browser |npm |PyPI )?`[^|]*) \|(.*)\|$", re.MULTILINE)


@dataclass(frozen=True)
class ClientRow:
    """A row of the table: a client, its version, and how it behaves in the table's words."""

    name: str
    version: str
    headers: str
    returns: str
    retry: str
    forbidden: str


@cache
def clients_passed() -> tuple[ClientRow, ...]:
    """Return the rows of the documentation's table, which a test compares with the tested clients.

    Empty if the demo is installed without its documentation.
    """
    page = settings.BASE_DIR / PAGE
    if not page.exists():
        return ()
    rows = _ROW.findall(page.read_text(encoding="utf-8"))
    return tuple(
        ClientRow(name.replace("`", ""), *(cell.strip() for cell in cells.split("|")))
        for name, cells in rows
    )
