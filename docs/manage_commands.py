"""A directive for Sphinx: `manage-command:: sse_doctor` shows what `--help` says."""

from __future__ import annotations

import argparse
import os
from typing import Any

from django.core.management import load_command_class
from docutils import nodes
from docutils.parsers.rst import Directive

# What every command has; `django-admin help` tells of them.
COMMON = {
    "--version",
    "--verbosity",
    "--settings",
    "--pythonpath",
    "--traceback",
    "--no-color",
    "--force-color",
    "--skip-checks",
}


class ManageCommand(Directive):
    """The help of one of the app's commands, without the options that all commands have."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        os.environ["COLUMNS"] = "92"  # How wide argparse writes.
        section = nodes.section(ids=[name], names=[name])
        section += nodes.title(text=name)
        command = load_command_class("sse_app", name)
        for parser in _parsers(command.create_parser("manage.py", name)):
            text = parser.format_help()
            section += nodes.literal_block(text, text, language="text")
        return [section]


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The command's own and those of its subcommands."""
    found = [parser]
    for action in parser._actions:
        if COMMON & set(action.option_strings):
            action.help = argparse.SUPPRESS
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                found += _parsers(inner)
    return found


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("manage-command", ManageCommand)
    return {"parallel_read_safe": True}
