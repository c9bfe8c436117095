"""Run one Python driver: `python -m tests.clients <driver> <url> <headers as JSON>`.

It ends with its standard input, so that none is left over when the tests are killed.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading


def see(event: str, data: str, id: str | None) -> None:
    """Print what a client saw, one JSON line."""
    print(json.dumps({"event": event, "data": data, "id": id or ""}), flush=True)


def end_with_input() -> None:
    """End the whole process group when standard input ends, curl too."""
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


threading.Thread(target=end_with_input, daemon=True).start()
driver, url, headers = sys.argv[1:4]
importlib.import_module(f"tests.clients.drivers.{driver}").listen(url, json.loads(headers), see)
