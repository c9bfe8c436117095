"""`manage.py sse_prune`: delete events beyond retention and expired rows."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from sse_app.conf import settings
from sse_app.eventlog import event_log
from sse_app.operations.housekeeping import delete_expired


class Command(BaseCommand):
    """Deletes in short steps, so publishers and streams continue meanwhile."""

    help = (
        "Delete events beyond SSE_APP['RETENTION_SECONDS'] and ['RETENTION_EVENTS'] from the event "
        "log, and expired tickets, idempotency records and revocations. Server processes do this "
        "by themselves every PRUNE_INTERVAL seconds. Use this command if no server process runs "
        "all the time, or to delete now. It may run beside servers, and several times at once."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        delete_expired()
        pruned = event_log().prune()
        seconds = settings().RETENTION_SECONDS
        older = "" if seconds is None else f"older than {seconds:g} s or "
        self.stdout.write(
            f"Deleted {pruned} event(s) {older}beyond the latest {settings().RETENTION_EVENTS} of "
            "their group."
        )
