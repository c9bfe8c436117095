"""`CommandWithExamples`: a management command whose `--help` ends with examples."""

from __future__ import annotations

import argparse
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandParser


class CommandWithExamples(BaseCommand):
    """Shows `help` and `examples` with their own line breaks."""

    examples: ClassVar[str]

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        """See `BaseCommand`."""
        parser = super().create_parser(*args, **kwargs)
        parser.epilog = self.examples
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        return parser
