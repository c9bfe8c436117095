"""`manage.py sse_doctor`: show what is wrong, and how to fix it."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandParser

from sse_app.operations.doctor import Finding, examine
from sse_app.operations.doctor_proxy import examine_stream

_MARKS: Final = {"fine": "ok", "note": "note", "warning": "WARNING", "error": "ERROR"}


class Command(BaseCommand):
    """Tests what runs, while `manage.py check` reads the settings."""

    help = (
        "Test whether streams work on this machine: check the settings, send through the channel "
        "layer, write and read the event log, compare clocks, check SQLite's modes and the command "
        "lines of this project's server processes on this machine, and with --url whether a proxy "
        "passes a stream on. Writes one event to the group 'doctor'. A note is what would be a "
        "warning in production. The exit status is 1 if something is wrong, so the command can "
        "guard a deployment."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--deploy", action="store_true", help="also run the checks for production"
        )
        parser.add_argument("--strict", action="store_true", help="exit with 1 for a warning too")
        parser.add_argument(
            "--url",
            metavar="URL",
            help="a stream's public address, such as https://example.org/events/?group=clock: "
            "it is read until its first heartbeat",
        )
        parser.add_argument("--token", default="", help="a bearer token for --url")

    def handle(self, *args: Any, **options: Any) -> None:
        levels = asyncio.run(self._examine(options))
        if "error" in levels or (options["strict"] and "warning" in levels):
            sys.exit(1)

    async def _examine(self, options: dict[str, Any]) -> set[str]:
        levels: set[str] = set()
        async for finding in examine(deploy=options["deploy"]):
            self._show(finding)
            levels.add(finding.level)
        if options["url"]:
            async for finding in examine_stream(options["url"], options["token"]):
                self._show(finding)
                levels.add(finding.level)
        return levels

    def _show(self, finding: Finding) -> None:
        style = {
            "fine": self.style.SUCCESS,
            "note": self.style.NOTICE,
            "warning": self.style.WARNING,
        }
        mark = style.get(finding.level, self.style.ERROR)(_MARKS[finding.level])
        self.stdout.write(f"{mark}: {finding.about}: {finding.text}")
        if finding.hint:
            self.stdout.write(f"    {finding.hint}")
