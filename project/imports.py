"""The demo's long task: one import at a time, in a thread of the server process."""

import logging
import threading
import time

from django.db import connections

from sse_app import progress

GROUP = "import"
ROWS = 200
SECONDS_PER_ROW = 0.02

logger = logging.getLogger(__name__)

_running = threading.Lock()


def start_import() -> bool:
    """Start the import, unless one is running here; return whether it was started."""
    if not _running.acquire(blocking=False):
        return False
    threading.Thread(target=_import, name="demo import", daemon=True).start()
    return True


def _import() -> None:
    try:
        with progress(GROUP, total=ROWS) as report:
            for row in range(1, ROWS + 1):
                time.sleep(SECONDS_PER_ROW)  # Stands for the work of a real import.
                report.at(row, text=f"row {row} of {ROWS}")
    except Exception:
        logger.exception("The demo's import failed")
    finally:
        connections.close_all()
        _running.release()
