"""What the documentation says can be checked, and is."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import sse_app
from sse_app.conf import Settings
from sse_app.protocol.control import CLOSE_RETRY

from ..clients import CLIENTS, FOLDER

ROOT = Path(sse_app.__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
SETTING = re.compile(r"^\| `([A-Z_]+)` \| `([^`]+)` \|", re.MULTILINE)
TEST = re.compile(r"\btests/([\w/]+\.py)::(\w+)")

ALL = "\n".join(page.read_text() for page in PAGES if page.name != "CHANGELOG.md")


def blocks(language: str) -> list[Any]:
    return [
        pytest.param(found[2], id=f"{page.name}-{number}")
        for page in PAGES
        for number, found in enumerate(FENCE.finditer(page.read_text()), start=1)
        if found[1] == language
    ]


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the sites that show Markdown make them."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_setting_is_documented_once_with_its_default_and_no_other_is() -> None:
    guide = (ROOT / "docs" / "reference" / "guide.md").read_text()
    section = guide.split("\n## Settings\n")[1].split("\n## ")[0]
    rows = SETTING.findall(section)
    assert len(rows) == section.count("\n| `"), "a row that is not | `KEY` | `default` |"
    assert sorted(key for key, _ in rows) == sorted(f.name for f in dataclasses.fields(Settings))
    documented = {key: plain(ast.literal_eval(default)) for key, default in rows}
    assert documented == {key: plain(value) for key, value in vars(Settings()).items()}


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def test_every_public_name_is_documented() -> None:
    code = " ".join(re.findall(r"`[^`\n]+`", ALL) + [found[2] for found in FENCE.finditer(ALL)])
    assert [name for name in sse_app.__all__ if not re.search(rf"\b{name}\b", code)] == []


@pytest.mark.parametrize("code", blocks("python"))
def test_python_in_the_documentation_can_be_parsed(code: str) -> None:
    ast.parse(code)


@pytest.mark.parametrize("code", blocks("python"))
def test_what_is_imported_from_the_package_is_public(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "sse_app":
            assert {alias.name for alias in node.names} <= set(sse_app.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    trees = re.findall(r"^:::\{toctree\}\n(.*?)^:::$", index, re.MULTILINE | re.DOTALL)
    listed = re.findall(r"^(?:.+ <)?([\w/-]+)>?$", "\n".join(trees), re.MULTILINE)
    docs = ROOT / "docs"
    pages = [page.relative_to(docs) for kind in ("md", "rst") for page in docs.rglob(f"*.{kind}")]
    assert sorted([*listed, "index"]) == sorted(page.with_suffix("").as_posix() for page in pages)


def test_every_public_name_is_in_the_reference() -> None:
    reference = (ROOT / "docs" / "reference" / "reference.rst").read_text()
    shown = set(re.findall(r":: sse_app\.(\w+)$", reference, re.MULTILINE))
    assert set(sse_app.__all__) - shown == set()


def test_the_reference_shows_names_of_its_public_modules_only() -> None:
    reference = (ROOT / "docs" / "reference" / "reference.rst").read_text()
    table = reference.split("\nmodule ")[1].split("\n\n")[0]
    modules = {*re.findall(r"``(sse_app[\w.]*)``", table)}
    shown = re.findall(r"^\.\. auto(?!module)\w+:: (.+)\.(\w+)$", reference, re.MULTILINE)
    tags = "sse_app.templatetags.sse"  # `{% load sse %}` imports it.
    private = {name for module, name in shown if module not in modules | {tags}}
    assert private == {"Subscriber", "Message"}, "the two types that only the app makes"
    for module in modules:
        import_module(module)


def test_every_command_is_in_the_reference() -> None:
    reference = (ROOT / "docs" / "reference" / "reference.rst").read_text()
    commands = {file.stem for file in (ROOT / "sse_app/management/commands").glob("sse_*.py")}
    assert set(re.findall(r"manage-command:: (\w+)", reference)) == commands


def test_every_check_is_documented_and_no_other_is() -> None:
    code = "\n".join(file.read_text() for file in (ROOT / "sse_app" / "checks").glob("*.py"))
    documented = re.findall(
        r"^\| `(\S+)` \|", (ROOT / "docs" / "operations" / "checks.md").read_text(), re.MULTILINE
    )
    assert documented == sorted(set(re.findall(r"\bsse_app\.[EW]\d+", code)))


def test_every_test_that_proves_something_is_there() -> None:
    security = (ROOT / "docs" / "access" / "security.md").read_text()
    proofs = TEST.findall(security)
    assert proofs
    for file, name in proofs:
        code = (ROOT / "tests" / file).read_text()
        assert re.search(rf"^(async )?def {name}\(", code, re.MULTILINE), name


def test_every_module_that_a_page_or_a_picture_names_is_there() -> None:
    """A path begins at the root or in `sse_app/`; a name alone may be in any of its folders."""
    files = [file.relative_to(ROOT).as_posix() for file in (ROOT / "sse_app").rglob("*.py")]
    there = {*files, *(file.removeprefix("sse_app/") for file in files), "manage.py", "conftest.py"}
    there |= {Path(file).name for file in files}
    pages = [ROOT / "CONTRIBUTING.md", *PAGES, *(ROOT / "docs").rglob("*.svg")]
    missing = {
        f"{page.name}: {module}"
        for page in pages
        if page.name != "CHANGELOG.md"
        for module in re.findall(r"[`>]([\w/]+\.py)[`<]", page.read_text())
        if module not in there and not ("/" in module and (ROOT / module).exists())
    }
    assert missing == set()


def test_every_wing_is_in_the_table_of_contributing() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().split("| floor | wing |")[1].split("\n\n")[0]
    cells = " ".join(row.split("|")[2] for row in table.splitlines()[2:])
    wings = {path.parent.name for path in (ROOT / "sse_app").glob("*/__init__.py")}
    others = {"management", "migrations", "templatetags", "testing"}
    assert {*re.findall(r"`(\w+)`", cells)} == wings - others | {"conf"}


def test_the_glossary_is_in_order_and_has_the_words_of_the_design() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", (ROOT / "docs/glossary.md").read_text(), re.M)
    assert words == sorted(words)
    design = "position cursor group event offset epoch grant ticket token hub topic subscription"
    assert {*design.split(), "stream", "cohort", "reader"} <= {*words}


def test_every_reason_that_the_code_gives_is_documented() -> None:
    """Read from the code: `close("…")`, `closing_block("…")`, `Busy("…")` and so on."""
    code = "\n".join(file.read_text() for file in (ROOT / "sse_app").rglob("*.py"))
    closed = set(re.findall(r"(?:\bclose|\bclosing_block|\bOver|\bmute)\(\"(\w+)\"", code))
    closed |= set(CLOSE_RETRY)
    busy = set(re.findall(r"(?:\bBusy|\bbusy_block|\bLimit)\(\"(\w+)\"", code)) | {"address"}
    # Nobody is told: the client has gone, or it is no client at all.
    assert reasons("sse.close") == closed - {"disconnect", "broken", "stalled", "left"}
    assert reasons("sse.busy") == busy


def reasons(event: str) -> set[str]:
    guide = (ROOT / "docs" / "reference" / "guide.md").read_text()
    table = guide.split(f"| `{event}` | why |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return set(re.findall(r"`(\w+)`", " ".join(cells)))


CLIENT_PAGE = (ROOT / "docs" / "delivery" / "clients.md").read_text()


def test_the_table_of_clients_says_what_the_tests_of_each_client_find() -> None:
    rows = re.findall(r"^\| ((?:browser |npm |PyPI )?`.*) \|$", CLIENT_PAGE, re.MULTILINE)
    cells = [[cell.strip() for cell in row.replace("`", "").split("|")] for row in rows]
    assert [row[0] for row in cells] == [client.name for client in CLIENTS]
    for client, (_, _, headers, _, retry, forbidden) in zip(CLIENTS, cells, strict=True):
        assert headers == ("yes" if client.sends_headers else "no"), client.name
        assert (retry != "no") is client.hears_retry, client.name
        assert forbidden == ("asks again" if client.insists else "stops"), client.name


def test_the_versions_of_clients_are_those_that_are_installed_for_the_tests() -> None:
    packages = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    requirements = (ROOT / "requirements.txt").read_text()
    installed = {f"npm {name}": version for name, version in packages.items()}
    for name, version in re.findall(r"^([\w-]+)>=([\d.]+)", requirements, re.MULTILINE):
        installed[f"PyPI {name}"] = version
    told = re.findall(r"^\| (npm|PyPI) `(.+?)` \| ([\d.]+) \|", CLIENT_PAGE, re.MULTILINE)
    assert len(told) == 10
    assert [version for kind, name, version in told if installed[f"{kind} {name}"] != version] == []


@pytest.mark.parametrize(
    "code", [found[2] for found in FENCE.finditer(CLIENT_PAGE) if found[1] in ("js", "python")]
)
def test_the_code_for_a_client_is_what_the_tests_run(code: str) -> None:
    drivers = [file.read_text() for file in (FOLDER / "drivers").glob("*.*")]
    assert any(is_excerpt(code, driver) for driver in drivers)


def is_excerpt(code: str, whole: str) -> bool:
    """Whether the lines of `code` are in `whole`, in that order, however far indented."""
    lines = iter([line.strip() for line in whole.splitlines()])
    return all(line.strip() in lines for line in code.splitlines())
