"""`manage.py sse_prune`: delete what is beyond retention."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from sse_app.conf import settings
from sse_app.eventlog import event_log
from sse_app.operations.housekeeping import delete_expired


class Command(BaseCommand):
    """Deletes in short steps, so publishers and streams go on meanwhile."""

    help = (
        "Delete events beyond SSE_APP['RETENTION_SECONDS'] and ['RETENTION_EVENTS'] from the event "
        "log, and with them unused tickets and the like. Server processes do so by themselves "
        "every PRUNE_INTERVAL; where none runs all the time, or at once, this command does. It "
        "can run beside everything else, and twice."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        delete_expired()
        pruned = event_log().prune()
        self.stdout.write(
            f"Deleted {pruned} event(s) older than {settings().RETENTION_SECONDS:g} s or beyond "
            f"the latest {settings().RETENTION_EVENTS} of their group."
        )
