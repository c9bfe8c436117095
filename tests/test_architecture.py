"""The house rules of the design, over `ast`."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

import sse_app

ROOT = Path(sse_app.__file__).parent

#: Imports go to a lower rank only. Modules of one rank do not know each other.
RANKS = {
    "identity": -2,
    "forks": -3,
    "headers": -2,
    "refusals": -2,
    "records": -1,
    "stream_logs": 1,
    "conf": 0,
    "cursors": -2,
    "counters": 0,
    "services": 1,
    "wakes": 0,
    "groups": -2,
    "signals": 0,
    "rates": 0,
    "retained": 1,
    "threads": 0,
    "snapshots": 2,
    "beginnings": 11,
    "latest": 1,
    "events": -1,
    "composition": 0,
    "connections": 0,
    "feed": 10,
    "greetings": 7,
    "replies": 8,
    "broadcast_models": 1,
    "presence_models": 0,
    "presence": 3,
    "attendance": 19,
    "bodies": 2,
    "addresses": 1,
    "authorization": 1,
    "callables": -1,
    "sessions": 1,
    "origins": 1,
    "servers": 0,
    "transports": 1,
    "flushes": 0,
    "daphne_requests": 1,
    "daphne_transport": 2,
    "templatetags.sse": 4,
    "models": 2,
    "repeats": 3,
    "tokens": 3,
    "inbox": 2,
    "layer": 6,
    "farewells": 2,
    "responses": 3,
    "eventlog.contract": 2,
    "eventlog.sqlite": 2,
    "eventlog.postgresql": 2,
    "eventlog.memory": 3,
    "eventlog.retention": 3,
    "eventlog.database": 4,
    "eventlog.redis_clients": 2,
    "eventlog.redis_scripts": 2,
    "eventlog.redis": 3,
    "eventlog": 5,
    "limit_scripts": 0,
    "shared_limits": 6,
    "limits": 7,
    "deploy_checks": 7,
    "pages": 7,
    "sinks": 5,
    "cohorts": 7,
    "topics": 6,
    "publishing": 7,
    "task_progress": 8,
    "fragments": 8,
    "views": 8,
    "checks": 7,
    "publications": 8,
    "bulk_changes": 9,
    "m2m_changes": 9,
    "changes": 10,
    "broadcasts": 15,
    "broadcast_filters": 3,
    "broadcast_forms": 12,
    "broadcast_admin": 19,
    "admin_log": 0,
    "admin": 22,
    "explain": 1,
    "overview": 0,
    "watching": 19,
    "dashboard": 20,
    "dashboard_texts": 0,
    "group_history": 6,
    "stream_admin": 21,
    "urls": 17,
    "subscriptions": 12,
    "streams": 15,
    "mailbox": 8,
    "patience": 13,
    "reads": 6,
    "grants": 3,
    "control": 5,
    "readers": 16,
    "control_group": 17,
    "passes": 5,
    "throttle": 3,
    "posts": 3,
    "housekeeping": 7,
    "tickets": 3,
    "secrecy": 0,
    "revocation": 17,
    "fingerprints": 0,
    "admission": 6,
    "revalidation": 17,
    "healing": 9,
    "starts": 9,
    "hub": 14,
    "replay": 12,
    "subscribing": 15,
    "http_client": 0,
    "health": 15,
    "doctor": 19,
    "proxies": 20,
    "reports": 16,
    "reporter": 17,
    "processes": 18,
    "measures": 1,
    "metrics": 19,
    "scrapes": 5,
    "shutdown": 19,
    "consumers": 18,
    "asgi": 20,
    "routing": 21,
    "apps": 19,
    "testing.capturing": 18,
    "testing.streaming": 21,
    "testing.clocks": 18,
    "testing.live": 18,
    "testing.daphne_process": 18,
    "testing": 22,
    "testing.fixtures": 20,
}
DESIGNED = [
    *("conf", "events", "cursors", "groups", "eventlog", "models", "layer", "publishing", "hub"),
    *("transports", "consumers", "authorization", "limits", "changes", "signals", "inbox", "views"),
    *("asgi", "routing", "urls", "admin", "checks", "testing", "templatetags.sse", "apps"),
    "responses",
]
FORBIDDEN = {"utils", "helpers", "manager", "core"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    name: path
    for path in sorted(ROOT.rglob("*.py"))
    if (name := name_of(path)) and not name.startswith(("migrations", "management"))
}
SOURCES = {name: path for name, path in MODULES.items() if path.read_text().strip()}


def tree_of(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


def package_of(name: str) -> list[str]:
    parts = name.split(".")
    return parts if MODULES[name].name == "__init__.py" else parts[:-1]


def imports(name: str, *, late: bool) -> set[str]:
    """The app's modules that a module imports; `late`: in functions and for types too."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if not late and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if not late and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = ["sse_app", *package_of(name)][: len(package_of(name)) + 2 - child.level]
                start = base if child.level else []
                module = ".".join([*start, *([child.module] if child.module else [])])
                found.add(module)
                found.update(f"{module}.{alias.name}" for alias in child.names)
            visit(child)

    visit(tree_of(name))
    own = {path.removeprefix("sse_app.") for path in found if path.startswith("sse_app.")}
    return (own & set(SOURCES)) - {name}


def reachable(name: str) -> set[str]:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        for other in imports(waiting.pop(), late=True) - seen:
            seen.add(other)
            waiting.append(other)
    return seen


@pytest.mark.parametrize("name", DESIGNED)
def test_every_module_of_the_design_is_there(name: str) -> None:
    assert name in MODULES


def test_every_module_has_a_rank() -> None:
    assert set(SOURCES) - set(RANKS) == set()


@pytest.mark.parametrize("name", SOURCES)
def test_imports_go_down_only(name: str) -> None:
    up = {other for other in imports(name, late=False) if RANKS[other] >= RANKS[name]}
    assert up == set()


def test_the_test_itself_sees_imports() -> None:
    assert {"layer", "conf", "eventlog", "events"} <= imports("publishing", late=False)
    assert "models" not in imports("eventlog.database", late=False)
    assert "models" in imports("eventlog.database", late=True)


def test_who_publishes_and_who_listens_never_import_each_other() -> None:
    listening = {
        "hub",
        "mailbox",
        "healing",
        "reads",
        "consumers",
        "subscriptions",
        "topics",
        "streams",
        "replay",
    }
    for name in ("publishing", "changes", "inbox"):
        assert reachable(name) & listening == set()
    for name in listening & set(SOURCES):
        assert "publishing" not in reachable(name)


def test_a_hub_knows_no_rights_no_outbox_and_no_housekeeping() -> None:
    rights = {"control", "control_group", "revalidation", "tickets"}
    others = {"layer", "publishing", "housekeeping", "repeats"}
    for name in ("hub", "replay", "subscribing"):
        assert reachable(name) & (rights | others) == set()


@pytest.mark.parametrize("name", ["events", "cursors", "groups"])
def test_pure_modules_know_no_settings_and_do_no_io(name: str) -> None:
    forbidden = {"os", "io", "socket", "threading", "asyncio", "logging", "time", "pathlib"}
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            base = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            for full in [base, *names, *(f"{base}.{alias}" for alias in names)]:
                assert not full.startswith(("django.conf", "django.db", "channels")), full
                assert full.split(".")[0] not in forbidden, full
        assert not (isinstance(node, ast.Name) and node.id in {"open", "print", "input"})
    assert reachable(name) <= {"groups", "cursors"}


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert {part for name in MODULES for part in name.split(".")} & FORBIDDEN == set()


@pytest.mark.parametrize("name", SOURCES)
def test_no_module_is_over_400_lines(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= 400


@pytest.mark.parametrize("name", SOURCES)
def test_modules_and_their_public_functions_and_classes_say_what_they_are_for(name: str) -> None:
    tree = tree_of(name)
    assert ast.get_docstring(tree)
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    public = [n for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_every_public_name_can_be_imported() -> None:
    for name in sse_app.__all__:
        value = getattr(sse_app, name)
        named = value.__name__ if isinstance(value, ModuleType) else value.__module__
        assert named.startswith("sse_app.")
    assert sorted(sse_app.__all__) == list(sse_app.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = sse_app.nothing


@pytest.mark.parametrize("name", SOURCES)
def test_every_module_can_be_imported(name: str) -> None:
    importlib.import_module(f"sse_app.{name}")
