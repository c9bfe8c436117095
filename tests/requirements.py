"""The text of `requirements.txt`, from `pyproject.toml`, which older versions of pip can't install.

`make requirements` writes the file, and `tests/doors/test_package.py` compares it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What the demo runs with comes first, since `make demo` installs no more.
DEMO = ("demo",)


def requirements() -> str:
    """Return the dependencies, the extras and the groups, each under its name."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, groups = declared["project"], declared["dependency-groups"]
    extras = project["optional-dependencies"]
    parts = ["# Made from pyproject.toml by `make requirements`.\n"]
    parts.append(_part("The app", project["dependencies"]))
    parts += [_part(f"The extra {name}", extras[name]) for name in extras]
    parts += [_part(f"The group {name}", groups[name]) for name in DEMO]
    parts.append("# Only for the tests and tools from here on: `make demo` does without.\n")
    parts += [_part(f"The group {name}", groups[name]) for name in groups if name not in DEMO]
    return "\n".join(parts)


def _part(title: str, packages: list[str]) -> str:
    return "".join(f"{line}\n" for line in [f"# {title}", *packages])


if __name__ == "__main__":
    print(requirements(), end="")
