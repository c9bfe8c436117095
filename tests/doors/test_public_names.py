"""The public names are those that the documentation has, and no others."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.dispatch import Signal

import sse_app

from ..support.documented import CODE, PAGES, Block, blocks

#: The modules to import from, beside `sse_app` itself, each with its public names. Whoever adds one
#: here also documents it; a module that is not here is private.
MODULES = {
    "admin": {"BroadcastActionMixin"},
    "asgi": {"event_stream_application"},
    "changes": {"ChangesManager", "ChangesQuerySet", "publish_changes", "suppress_changes"},
    "consumers": {"EventStreamConsumer"},
    "eventlog": {
        "DatabaseEventLog",
        "LogUnavailable",
        "MemoryEventLog",
        "NotReplicated",
        "PartlyStored",
        "RedisEventLog",
    },
    "metrics": {"Collector"},
    "presence": {"members", "amembers"},
    "responses": {"Close", "EventStreamResponse"},
    "routing": {"event_stream_urlpatterns"},
    "signals": {
        "event_published",
        "message_received",
        "stream_closed",
        "stream_lost_group",
        "stream_opened",
    },
    "testing": {"capture_events", "stream"},
    "testing.fixtures": {"live_daphne", "sse_clock"},
    "urls": set(),
}
NAMES = [(module, name) for module, names in MODULES.items() for name in sorted(names)]


def module_of(path: str) -> ModuleType:
    return importlib.import_module(f"sse_app.{path}" if path else "sse_app")


@pytest.mark.parametrize("name", sse_app.__all__)
def test_a_name_of_the_package_is_there_and_documented(name: str) -> None:
    assert getattr(sse_app, name) is not None
    assert re.search(rf"\b{name}\b", CODE), f"sse_app.{name} is in __all__ but in no page of docs/"


def test_what_the_package_loads_late_is_what_it_has_in_all() -> None:
    assert {*sse_app._MODULES, "presence"} == set(sse_app.__all__)
    assert sorted(sse_app.__all__) == list(sse_app.__all__)


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_name_of_a_public_module_is_there_and_documented(module: str, name: str) -> None:
    assert hasattr(module_of(module), name), f"sse_app.{module} has no {name}: take it out of here"
    assert re.search(rf"\b{name}\b", CODE), f"sse_app.{module}.{name} is in no page of docs/"


def imports(block: Block) -> Iterator[tuple[str, str]]:
    """Each name that `block` imports from the app: its module below `sse_app`, and the name."""
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sse_app":
            module = str(node.module).partition(".")[2]
            yield from ((module, alias.name) for alias in node.names)


@pytest.mark.parametrize("block", list(blocks("python")), ids=str)
def test_the_documentation_imports_only_what_is_public(block: Block) -> None:
    for module, name in imports(block):
        public: Any = MODULES.get(module, set()) if module else sse_app.__all__
        whole = f"sse_app.{module}".rstrip(".")
        assert name in public, (
            f"{block} imports {name} from {whole}, which is not public: correct the page, or add "
            "the name to MODULES in tests/doors/test_public_names.py"
        )


def test_each_signal_is_public() -> None:
    names = vars(module_of("signals"))
    found = {name for name, value in names.items() if isinstance(value, Signal)}
    assert found == MODULES["signals"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_dotted_name_in_the_documentation_is_there(page: Path) -> None:
    """As in a setting, `"sse_app.eventlog.RedisEventLog"`: what looks like a class."""
    for module, name in re.findall(r"\bsse_app\.([a-z_.]+)\.([A-Z]\w+)\b", page.read_text()):
        assert hasattr(module_of(module), name), f"{page.name}: sse_app.{module} has no {name}"
        assert name in MODULES.get(module, ()), f"{page.name}: sse_app.{module}.{name} is private"
