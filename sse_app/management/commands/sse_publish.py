"""`manage.py sse_publish`: publish an event from the shell."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser

from sse_app.management.examples import CommandWithExamples
from sse_app.management.known_groups import never_published
from sse_app.protocol.events import Event
from sse_app.publishing import outbox
from sse_app.publishing.publish import publish


class Command(CommandWithExamples):
    """Publishes as `publish()` does: into the log, then on the channel layer."""

    help = (
        "Publish an event to a group. DATA is sent unchanged; without DATA, stdin is read to its\n"
        "end. Servers get the event by the channel layer if that is Redis. If it is in-memory,\n"
        "they get durable events from the event log, and never an event that is not durable."
    )

    examples = """
examples:
  manage.py sse_publish orders order.updated '{"id": 5}' --json
  manage.py sse_publish chat.lobby message 'Back in five minutes.'
  uptime | manage.py sse_publish servers load
  tail -f app.log | manage.py sse_publish logs line --lines --not-durable
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("group", help="the group, such as orders or order.42")
        parser.add_argument("event", help="the event's name, such as order.updated")
        parser.add_argument("data", nargs="?", help="the event's data (default: read stdin)")
        parser.add_argument(
            "--json", action="store_true", help="refuse invalid JSON, and send it compact"
        )
        parser.add_argument(
            "--lines", action="store_true", help="publish each line of stdin as an event"
        )
        parser.add_argument(
            "--not-durable",
            action="store_true",
            help="do not keep the event in the log: only current subscribers get it",
        )
        parser.add_argument("--key", help="with --not-durable: replaces waiting events of this key")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["key"] is not None and not options["not_durable"]:
            raise CommandError("--key replaces events that are not durable: add --not-durable.")
        if options["lines"] and (options["data"] is not None or options["key"] is not None):
            raise CommandError("--lines publishes the lines of stdin: leave out DATA and --key.")
        try:
            if options["lines"]:
                self._publish_lines(options)
            else:
                self._publish_one(options)
        except (TypeError, ValueError) as error:
            raise CommandError(str(error)) from error
        if not outbox.flush():
            raise CommandError(
                "The channel layer did not accept the events in time. Streams get durable events "
                "from the event log; other events are lost."
            )

    def _publish_one(self, options: dict[str, Any]) -> None:
        data = options["data"]
        if data is None:
            data = sys.stdin.read().removesuffix("\n")
        event = _publish(data, options)
        position = (
            "" if event.offset is None else f" at offset {event.offset} of epoch {event.epoch}"
        )
        self.stdout.write(f"Published {event.name} to {event.group}{position}.")
        if event.offset == 1:
            self.stderr.write(never_published([event.group], "before"))

    def _publish_lines(self, options: dict[str, Any]) -> None:
        count = 0
        for line in sys.stdin:  # Line by line: the writer of stdin may be slow and never end.
            _publish(line.removesuffix("\n"), options)
            count += 1
        self.stdout.write(f"Published {count} event(s) to {options['group']}.")


def _publish(text: str, options: dict[str, Any]) -> Event:
    return publish(
        options["group"],
        options["event"],
        _data(text, options),
        durable=not options["not_durable"],
        key=options["key"],
    )


def _data(text: str, options: dict[str, Any]) -> object:
    if not options["json"]:
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandError(f"{text[:60]!r} is invalid JSON: {error}.") from error
