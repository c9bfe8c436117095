"""How clients' errors are logged."""

import logging


class BriefFilter(logging.Filter):
    """Removes the traceback of records about a client's error: one line per request is enough.

    For example, Django logs a traceback for each wrong Host, so any client could fill the disk.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass."""
        if 400 <= getattr(record, "status_code", 500) < 500:
            record.exc_info = record.exc_text = None
        return True
