"""The rules of the house: wings on floors, no circle, sizes, and what modules say of themselves."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

import sse_app

ROOT = Path(sse_app.__file__).parent

#: A wing imports what stands on a lower line, and itself. The wings of one line never import each
#: other. Imports for types and imports in functions count as well.
FLOORS = [
    {"conf", "runtime", "protocol"},
    {"signals", "eventlog", "responses"},
    {"publishing", "delivery"},
    {"changes", "access"},
    {"operations"},
    {"presence", "broadcasts", "metrics"},
    {"consumers", "views", "checks", "templatetags", "management", "admin", "models"},
    {"asgi", "urls", "apps"},
    {"routing", "testing"},
]
#: Import paths of users, and names that Django or Channels give.
DOORS = {"asgi", "consumers", "routing", "responses", "metrics"}
DJANGOS = {
    *("admin", "apps", "checks", "locale", "management", "migrations", "models", "signals"),
    *("static", "templates", "templatetags", "urls", "views"),
}
#: These only collect what the wings have, so that nothing imports them.
FACES = {"admin", "models"}
#: Wings whose `__init__` hands names on.
PUBLIC = {"changes", "eventlog", "presence", "testing"}
#: Modules that have less than 40 lines because they are a data structure, with what they hold.
SMALL: dict[str, str] = {
    "access.refusals": "an exception",
    "eventlog.failures": "exceptions",
    "protocol.headers": "the headers of a stream, for every wing",
    "runtime.garbage": "one threshold of a server process",
    "runtime.forks": "one function that every wing uses",
    "testing.daphne_process": "a program for a process of its own",
    "testing.fixtures": "fixtures for pytest",
    "views.stream": "one view",
}
#: Functions, classes and modules that are too long. The list may only shrink.
LONG: set[str] = set()
FORBIDDEN = {"utils", "helpers", "manager", "core", "base", "data", "info", "process"}

Graph = Mapping[str, set[str]]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    name: path
    for path in sorted(ROOT.rglob("*.py"))
    if (name := name_of(path)) and not name.startswith("migrations") and path.read_text().strip()
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imports(tree: ast.Module, package: list[str], modules: set[str]) -> set[str]:
    """The app's modules that a module of `package` imports, wherever the import stands."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("sse_app.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                start = package[: len(package) + 1 - node.level]
                base = ".".join([*start, *([node.module] if node.module else [])])
            elif (node.module or "").split(".")[0] == "sse_app":
                base = (node.module or "").removeprefix("sse_app").removeprefix(".")
            else:
                continue
            for alias in node.names:
                full = f"{base}.{alias.name}".removeprefix(".")
                found.add(full if full in modules else base)
    return found & modules


def package_of(name: str) -> list[str]:
    parts = name.split(".")
    return parts if MODULES[name].name == "__init__.py" else parts[:-1]


GRAPH: Graph = {
    name: imports(tree, package_of(name), set(MODULES)) - {name} for name, tree in TREES.items()
}


def wing(module: str) -> str:
    return module.split(".")[0]


def upward(graph: Graph) -> set[str]:
    """Imports that go up or sideways, and imports of a face."""
    floor = {wing: number for number, wings in enumerate(FLOORS) for wing in wings}
    return {
        f"{module} -> {other}"
        for module, others in graph.items()
        for other in others
        if other in FACES
        or (wing(module) != wing(other) and floor[wing(other)] >= floor[wing(module)])
    }


def circles(graph: Graph) -> list[list[str]]:
    """Sets of modules that import each other in a circle, the modules of each in order."""
    reached: dict[str, set[str]] = {}
    for module in graph:
        seen: set[str] = set()
        waiting = [module]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        reached[module] = seen
    found = {
        tuple(sorted(other for other in reached[module] if module in reached[other]))
        for module in graph
        if module in reached[module]
    }
    return [list(circle) for circle in sorted(found)]


def within_wings(graph: Graph) -> Graph:
    return {
        module: {other for other in others if wing(other) == wing(module)}
        for module, others in graph.items()
    }


def too_long(name: str, text: str) -> Iterator[str]:
    """A module over 400 lines, and its classes over 250 and functions over 40."""
    if len(text.splitlines()) > 400:
        yield name
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            limit = 250 if isinstance(node, ast.ClassDef) else 40
            if (node.end_lineno or 0) - node.lineno + 1 > limit:
                yield f"{name}.{node.name}"


def impure(tree: ast.Module) -> Iterator[str]:
    """Imports of anything but the standard library, and of its parts for input and output."""
    forbidden = {"os", "io", "socket", "threading", "asyncio", "logging", "time", "pathlib"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in {"open", "print", "input"}:
            yield node.id
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            top = name.split(".")[0]
            if top in forbidden or top not in sys.stdlib_module_names | {"__future__"}:
                yield name


# --- the rules ------------------------------------------------------------------------------------


def test_the_table_of_floors_is_short_and_has_every_wing_once() -> None:
    wings = [wing for floor in FLOORS for wing in floor]
    assert len(FLOORS) <= 20
    assert sorted(wings) == sorted({wing(module) for module in MODULES})


def test_the_top_has_at_most_twelve_names_of_ours() -> None:
    entries = {path.stem for path in ROOT.iterdir()} - {"__init__", "__pycache__", "py"}
    assert len(entries - DOORS - DJANGOS) <= 12
    assert entries >= DOORS


def test_imports_go_down_only_and_nobody_imports_a_face() -> None:
    assert sorted(upward(GRAPH)) == []


def test_no_modules_of_a_wing_import_each_other_in_a_circle() -> None:
    assert circles(within_wings(GRAPH)) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(GRAPH) == []


@pytest.mark.parametrize("name", ["events", "cursors", "groups"])
def test_pure_modules_of_the_protocol_know_only_each_other_and_do_no_io(name: str) -> None:
    module = f"protocol.{name}"
    pure = {"protocol.events", "protocol.cursors", "protocol.groups"}
    assert GRAPH[module] <= pure
    # The data of an event is encoded as Django encodes JSON.
    assert set(impure(TREES[module])) <= {"django.core.serializers.json"}


def test_no_module_class_or_function_is_too_long() -> None:
    found = {long for name, path in MODULES.items() for long in too_long(name, path.read_text())}
    assert sorted(found - LONG) == []
    assert sorted(LONG - found) == [], "take these out of LONG"


def test_no_module_is_a_fragment() -> None:
    """Less than 40 lines: a face, a door, a model, a command, or a data structure."""
    small = {
        name
        for name, path in MODULES.items()
        if len(path.read_text().splitlines()) < 40
        and path.name != "__init__.py"
        and name.split(".")[-1] not in FACES | DOORS | DJANGOS
        and wing(name) != "management"
    }
    assert sorted(small - set(SMALL)) == []
    assert sorted(set(SMALL) - small) == [], "take these out of SMALL"


def test_only_public_wings_hand_names_on() -> None:
    faces = [name for name, path in MODULES.items() if path.name == "__init__.py"]
    for name in faces:
        private = name not in PUBLIC and wing(name) != "management"
        assert not private or len(TREES[name].body) == 1, f"{name} has more than a docstring"


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert {part for name in MODULES for part in name.split(".")} & FORBIDDEN == set()


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_their_public_functions_and_classes_say_what_they_are_for(name: str) -> None:
    tree = TREES[name]
    assert ast.get_docstring(tree)
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    public = [n for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]
    if wing(name) != "management":
        assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_every_public_name_can_be_imported() -> None:
    for name in sse_app.__all__:
        value = getattr(sse_app, name)
        named = value.__name__ if isinstance(value, ModuleType) else value.__module__
        assert named.startswith("sse_app.")
    assert sorted(sse_app.__all__) == list(sse_app.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = sse_app.nothing


#: Imports each module in a process that has none of the app: a child of one that has loaded Django
#: with an empty configuration of the app. `ready()` would import most modules before.
IMPORT_EACH = """
import gc, importlib, json, os, sys
import django
from django.apps import AppConfig, apps
from django.conf import settings


class Empty(AppConfig):
    name = "sse_app"
    path = sys.argv[1]

    def import_models(self):
        self.models = apps.all_models[self.label]


settings.configure(
    SECRET_KEY="x",
    INSTALLED_APPS=["django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes",
                    "django.contrib.messages", "django.contrib.sessions"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
django.setup()
apps.app_configs["sse_app"] = empty = Empty("sse_app", sys.modules["__main__"])
empty.apps = apps
empty.import_models()
apps.clear_cache()


def in_child(work):
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = work()
        except BaseException as error:
            said = repr(error)
        os.write(writes, json.dumps(said).encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        said = json.loads(pipe.read() or '"the process died"')
    os.waitpid(child, 0)
    return said


def foreign():
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:
            pass  # Found below, where the module is alone.
    return [name for name in sys.modules if not name.startswith(("sse_app", "__m"))]


names = json.loads(sys.argv[2])
# What others wrote is loaded once, before: that takes longer than all modules of the app.
for name in in_child(foreign):
    try:
        importlib.import_module(name)
    except Exception:
        pass
assert not any(name.startswith("sse_app") for name in sys.modules)
failed = {}
gc.disable()
gc.freeze()
for name in names:
    said = in_child(lambda: importlib.import_module(name).__name__)
    if said != name:
        failed[name] = said
print(json.dumps(failed))
"""


def imported_alone(names: list[str]) -> dict[str, str]:
    """Import each of the modules in a process of its own; return the errors by module."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH, str(ROOT), json.dumps(names)],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    failed: dict[str, str] = json.loads(done.stdout)
    return failed


@pytest.mark.slow
def test_every_module_can_be_imported_first_in_a_process() -> None:
    # Test fixtures import pytest's plugin for Django, which reads the project's settings.
    names = [f"sse_app.{name}" for name in MODULES if name != "testing.fixtures"]
    assert imported_alone(names) == {}


# --- the test itself ------------------------------------------------------------------------------


def test_wrong_imports_and_circles_are_seen() -> None:
    wrong = {
        "delivery.hub": {"access.limits"},  # upward
        "publishing.publish": {"delivery.hub"},  # sideways
        "access.tickets": {"models"},  # a face
        "presence.roster": {"conf"},  # right
        "conf": set(),
    }
    assert upward(wrong) == {
        "access.tickets -> models",
        "delivery.hub -> access.limits",
        "publishing.publish -> delivery.hub",
    }
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert within_wings({"access.a": {"access.b", "conf"}}) == {"access.a": {"access.b"}}


def test_imports_are_seen_wherever_they_stand() -> None:
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "from ..conf import settings\n"
        "from . import hub\n"
        "if TYPE_CHECKING:\n"
        "    from ..access.limits import LIMITS\n"
        "def late():\n"
        "    from sse_app.presence import roster\n"
        "    import sse_app.models\n"
    )
    modules = {"conf", "delivery.hub", "access.limits", "presence.roster", "models", "presence"}
    assert imports(tree, ["delivery"], modules) == modules - {"presence"}


def test_what_is_too_long_or_impure_is_seen() -> None:
    lines = "    pass\n" * 40
    assert list(too_long("m", f"def short():\n{lines[9:]}")) == []
    assert list(too_long("m", f"def long():\n{lines}")) == ["m.long"]
    assert list(too_long("m", "#\n" * 401)) == ["m"]
    impure_text = "import time\nfrom django.db import models\nfrom . import x\nprint(1)\n"
    assert sorted(impure(ast.parse(impure_text))) == ["django.db", "print", "time"]


def test_a_module_that_needs_another_one_first_is_seen(tmp_path: Path) -> None:
    assert imported_alone(["sse_app.no_such_module"]).keys() == {"sse_app.no_such_module"}
