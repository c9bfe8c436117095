"""Fixtures that make and serve projects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .projects import Host, like


@pytest.fixture(scope="session")
def migrated_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project whose database has all tables."""
    host = Host(tmp_path_factory.mktemp("migrated-project"))
    host.migrate()
    host.close()
    return host.root


@pytest.fixture(scope="module")
def make_host(
    tmp_path_factory: pytest.TempPathFactory, migrated_project: Path
) -> Iterator[Callable[..., Host]]:
    """Serve a project, for the tests of a module: `make_host(USE_TZ=False)`.

    `migrate=True` for a project with tables of its own; see `Host` for the other arguments.
    """
    hosts: list[Host] = []

    def make(*, migrate: bool = False, **project: Any) -> Host:
        host = Host(tmp_path_factory.mktemp("project"), **project)
        hosts.append(host)
        if migrate:
            host.migrate()
        else:
            like(migrated_project, host.root)
        return host.start()

    yield make
    for host in hosts:
        host.close()
