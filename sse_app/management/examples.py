"""`CommandWithExamples`: a management command with examples, and errors without a traceback."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError


class CommandWithExamples(BaseCommand):
    """Shows `help` and `examples` with their own line breaks.

    An error of the database, for example before `migrate`, and a closed pipe end the command
    without a traceback.
    """

    examples: ClassVar[str]

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        """See `BaseCommand`."""
        parser = super().create_parser(*args, **kwargs)
        parser.epilog = self.examples
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        return parser

    def execute(self, *args: Any, **options: Any) -> str | None:
        """See `BaseCommand`."""
        try:
            return super().execute(*args, **options)
        except DatabaseError as error:
            raise CommandError(str(error)) from error
        except BrokenPipeError:  # The reader, such as `head -1`, has ended.
            # Python writes what is left at its exit, which would fail once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
