"""What the log says of a client's mistakes."""

import logging


class BriefFilter(logging.Filter):
    """Takes the traceback from what was the client's fault: one line per bad request is enough.

    Django logs a wrong Host, for one, with its traceback, so a stranger could fill a disk.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass."""
        if 400 <= getattr(record, "status_code", 500) < 500:
            record.exc_info = record.exc_text = None
        return True
