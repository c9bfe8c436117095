"""`manage.py sse_new_epoch`: after a restore, make every reader load its state again."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from sse_app.conf import namespace
from sse_app.eventlog import event_log
from sse_app.protocol.groups import full_name


class Command(BaseCommand):
    """Gives groups a new epoch in the event log."""

    help = (
        "Give all groups, or the named ones, a new epoch in the event log. Run this command after "
        "every restore of the database or the Redis that has the log, before anything publishes: "
        "offsets after the backup are used again, and a page that got the old events would skip "
        "the new ones. With a new epoch, every page gets sse.reset with the reason 'epoch' and "
        "loads its state again. Running servers notice within CHECK_INTERVAL."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("groups", nargs="*", metavar="GROUP", help="only these (default: all)")
        parser.add_argument(
            "--no-input", "--noinput", action="store_true", help="do not ask about all groups"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            groups = [full_name(group, namespace()) for group in options["groups"]]
        except ValueError as error:
            raise CommandError(str(error)) from error
        if not groups and not options["no_input"] and sys.stdin.isatty():
            self.stdout.write("Every open page of every group will load its state again.")
            if input("Give all groups a new epoch? [y/N] ").strip().lower() not in ("y", "yes"):
                raise CommandError("Nothing was changed. Name groups to give only them an epoch.")
        renewed = event_log().renew_epoch(groups or None)
        self.stdout.write(f"{renewed} group(s) have a new epoch.")
        if len(groups) > renewed:
            self.stdout.write("The other named groups have no events, so they need no new epoch.")
