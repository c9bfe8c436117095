"""`manage.py sse_listen`: show the events of groups, live, from the log or over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from django.core.management.base import CommandError, CommandParser

from sse_app.conf import namespace
from sse_app.delivery.subscriber import ContinuityLost, subscribe
from sse_app.eventlog import event_log
from sse_app.management.examples import CommandWithExamples
from sse_app.management.known_groups import never_published
from sse_app.operations.sse_client import HttpEvent, Stopped, listen
from sse_app.protocol.events import validate_name
from sse_app.protocol.groups import full_name, own_name
from sse_app.runtime.callables import in_thread

_LAST: Final = re.compile(r"-[1-9][0-9]{0,8}\Z", re.ASCII)


class Command(CommandWithExamples):
    """Subscribes like a page: in order, without gaps or repeats, across restarts of the server."""

    help = (
        "Show the events of groups, live, until Ctrl-C. Without --url the command reads this\n"
        "project's event log and channel layer, as a server process does, and asks no policy.\n"
        "With --url it reads an event stream over HTTP and reconnects by itself, as a page does."
    )

    examples = """
examples:
  manage.py sse_listen orders 'chat.lobby'
  manage.py sse_listen orders --from earliest --json | jq .data
  manage.py sse_listen orders --from -20 --count 20
  manage.py sse_listen --url https://example.org/events/?group=orders --token "$TOKEN"
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("groups", nargs="*", metavar="GROUP", help="the groups to listen to")
        parser.add_argument(
            "--from",
            dest="history",
            metavar="earliest|-N",
            help="begin with the first event of the log, or the last N (default: new events only)",
        )
        parser.add_argument("--after", metavar="ID", help="continue after the event with this id")
        parser.add_argument(
            "--event",
            action="append",
            default=[],
            metavar="NAME",
            help="show only events with this name; can be repeated",
        )
        parser.add_argument("--json", action="store_true", help="one JSON object per line")
        parser.add_argument("--count", type=int, metavar="N", help="end after N events")
        parser.add_argument("--url", help="a stream's address, with its groups or grant")
        parser.add_argument("--token", help="with --url: a bearer token (manage.py sse_token)")

    def handle(self, *args: Any, **options: Any) -> None:
        if bool(options["groups"]) == bool(options["url"]):
            raise CommandError("Give either groups, or --url with a stream's address.")
        if options["token"] and not options["url"]:
            raise CommandError("--token is for --url: reading the log needs no token.")
        if options["count"] is not None and options["count"] < 1:
            raise CommandError(f"--count is {options['count']}; it must be 1 or more.")
        try:
            asyncio.run(self._show(options))
        except (ValueError, Stopped) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            pass

    async def _show(self, options: dict[str, Any]) -> None:
        count = 0
        async for item in _events(options):
            if isinstance(item, str):
                self.stderr.write(item, style_func=lambda text: text)
                continue
            self.stdout.write(_as_json(item) if options["json"] else self._as_text(item))
            self.stdout.flush()
            count += 1
            if count == options["count"]:
                return

    def _as_text(self, event: HttpEvent) -> str:
        """Return the event as a line: with the time and colours on a terminal, plain in a pipe."""
        parts = [event.group, event.name, event.data]
        if self.stdout.isatty():
            parts[1] = self.style.SUCCESS(event.name)
            parts.insert(0, time.strftime("%H:%M:%S"))
        return " ".join(part for part in parts if part)


def _events(options: dict[str, Any]) -> AsyncIterator[HttpEvent | str]:
    """Yield events, and notices about the connection as text."""
    if options["url"]:
        history = _history(options["history"])
        return listen(
            options["url"],
            parameters=[*([("from", history)] if history else []), *_filters(options["event"])],
            after=options["after"] or "",
            token=options["token"] or "",
        )
    return _from_log(options)


async def _from_log(options: dict[str, Any]) -> AsyncIterator[HttpEvent | str]:
    history = _history(options["history"])
    history_arg = -int(history) if history.startswith("-") else history or None
    async with subscribe(
        *options["groups"], after=options["after"], history=history_arg, events=options["event"]
    ) as events:
        yield f"Listening to {', '.join(options['groups'])}; Ctrl-C ends."
        heads = await event_log().aheads(
            [full_name(group, namespace()) for group in options["groups"]]
        )
        if unknown := [own_name(group) for group, head in heads.items() if head.is_start]:
            yield await in_thread(never_published, unknown)
        while True:
            try:
                event = await anext(events)
            except ContinuityLost as lost:
                yield str(lost)
            except StopAsyncIteration:
                return
            else:
                id = events.cursor if event.durable else ""
                yield HttpEvent(event.name, event.data, id, event.group)


def _filters(names: list[str]) -> list[tuple[str, str]]:
    return [("event", validate_name(name)) for name in names]


def _history(text: str | None) -> str:
    if text is None or text == "earliest" or _LAST.match(text):
        return text or ""
    raise CommandError(f"--from is {text!r}; it must be earliest, or -N for the last N events.")


def _as_json(event: HttpEvent) -> str:
    try:
        data = json.loads(event.data)
    except ValueError:
        data = event.data
    fields = {"group": event.group, "event": event.name, "data": data, "id": event.id}
    return json.dumps(
        {key: value for key, value in fields.items() if value != ""}, ensure_ascii=False
    )
