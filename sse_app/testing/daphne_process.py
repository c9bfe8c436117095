"""The program of a `LiveDaphne`: daphne on the socket and the databases of a test."""

from __future__ import annotations

import json
import os
import sys

from daphne.cli import CommandLineInterface
from django.conf import settings


def serve(descriptor: str) -> None:
    """Serve the project's application on the listening socket `descriptor`, until a signal."""
    # Before the first database connection.
    for alias, name in json.loads(os.environ["SSE_APP_TEST_DATABASES"]).items():
        settings.DATABASES[alias]["NAME"] = name
    settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, "127.0.0.1", "localhost"]
    module, _, name = settings.ASGI_APPLICATION.rpartition(".")
    options = ["--fd", descriptor, "--access-log", os.devnull, f"{module}:{name}"]
    CommandLineInterface().run(options)


if __name__ == "__main__":
    serve(sys.argv[1])
