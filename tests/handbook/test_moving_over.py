"""The recipe for moving over from django-eventstream, taken literally."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from sse_app.conf import Settings

from ..support.newcomers import ROOT, make, read, served
from ..support.patience import PATIENCE

pytestmark = pytest.mark.project

PAGE = (ROOT / "docs" / "start" / "from-django-eventstream.md").read_text()
ROWS = [line.split(" | ", 1) for line in PAGE.splitlines() if line.startswith("| `")]
BLOCK = re.compile(r"^```python\n# after: ([\w/.]+)(.*?)\n(.*?)^```$", re.M | re.S)


def test_the_moved_project_publishes_and_keeps_its_policy(tmp_path: Path) -> None:
    make(tmp_path, "shop")
    for name, remark, text in BLOCK.findall(PAGE):
        file = tmp_path / name
        file.write_text(f"{file.read_text()}\n{text}" if remark == ", at the end" else text)
    with served(tmp_path) as address:
        assert httpx.get(f"{address}/announce/?text=hello", timeout=PATIENCE).status_code == 204
        news = read(f"{address}/events/?group=news&from=earliest", "hello")
        assert 'data: {"text":"hello"}\n' in news
        assert httpx.get(f"{address}/events/?group=staff").status_code == 403
        # A page that was open before.
        assert httpx.get(f"{address}/events/?channel=news").status_code == 400


def test_the_settings_of_the_table_are_there() -> None:
    named = re.findall(r"SSE_APP\[\"(\w+)\"\]|`(RETENTION_\w+)`", "\n".join(row[1] for row in ROWS))
    keys = {first or second for first, second in named}
    assert {"MAY_LISTEN", "ALLOWED_ORIGINS"} <= keys
    assert keys <= set(vars(Settings()))


def test_the_table_names_what_django_eventstream_has() -> None:
    package = find_spec("django_eventstream")
    assert package is not None
    assert package.origin is not None
    code = "\n".join(file.read_text() for file in Path(package.origin).parent.glob("*.py"))
    left = "\n".join(row[0] for row in ROWS)
    names = re.findall(r"EVENTSTREAM_\w+", left)
    functions = set(re.findall(r"`(\w+)\(", left)) - {"path"}  # Django's own.
    assert names
    assert [name for name in names if name not in code] == []
    assert functions
    assert [name for name in functions if f"def {name}(" not in code] == []
