"""`manage.py sse_new_epoch`: after a restore, tell every reader that history is another one."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from sse_app.eventlog import event_log
from sse_app.protocol.groups import validate_group


class Command(BaseCommand):
    """Gives groups a new epoch in the event log."""

    help = (
        "Give all groups, or those named, a new epoch in the event log. A step of every restore of "
        "the database or the Redis that holds the log: the offsets after the backup are given out "
        "again, and a page that saw the old ones would take the new for their continuation. Every "
        "page then gets sse.reset with the reason 'epoch' and reads its state anew. Run it before "
        "anything publishes; running servers notice within CHECK_INTERVAL."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("groups", nargs="*", metavar="GROUP", help="only these; else all")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            groups = [validate_group(group) for group in options["groups"]]
        except ValueError as error:
            raise CommandError(str(error)) from error
        renewed = event_log().renew_epoch(groups or None)
        self.stdout.write(f"{renewed} group(s) have a new epoch.")
        if len(groups) > renewed:
            self.stdout.write("The others named have no events, so nothing to lose.")
