"""Run one Python driver: `python -m tests.clients <driver> <url> <headers as JSON>`."""

from __future__ import annotations

import importlib
import json
import sys


def see(event: str, data: str, id: str | None) -> None:
    """Print what a client saw, one JSON line."""
    print(json.dumps({"event": event, "data": data, "id": id or ""}), flush=True)


driver, url, headers = sys.argv[1:4]
importlib.import_module(f"tests.clients.drivers.{driver}").listen(url, json.loads(headers), see)
