"""The requirements from `pyproject.toml` as files, since older versions of pip know no groups.

`make requirements` writes `requirements.txt` and, with the group `hosts` only,
`tests/hosts/requirements.txt`; `tests/doors/test_package.py` compares both.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What the demo runs with comes first, since `make demo` installs no more.
DEMO = ("demo",)
#: `make test` does without, so it has a file of its own.
HOSTS = "hosts"
MADE = "# Made from pyproject.toml by `make requirements`.\n"


def requirements() -> str:
    """Return the dependencies, the extras and the groups, each under its name."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, groups = declared["project"], declared["dependency-groups"]
    extras = project["optional-dependencies"]
    parts = [MADE]
    parts.append(_part("The app", project["dependencies"]))
    parts += [_part(f"The extra {name}", extras[name]) for name in extras]
    parts += [_part(f"The group {name}", groups[name]) for name in DEMO]
    parts.append("# Only for the tests and tools from here on: `make demo` does without.\n")
    others = [name for name in groups if name not in (*DEMO, HOSTS)]
    parts += [_part(f"The group {name}", groups[name]) for name in others]
    return "\n".join(parts)


def of_hosts() -> str:
    """Return the packages that only the tests of other projects need."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    return "\n".join([MADE, _part(f"The group {HOSTS}", groups[HOSTS])])


def _part(title: str, packages: list[str]) -> str:
    return "".join(f"{line}\n" for line in [f"# {title}", *packages])


if __name__ == "__main__":
    print(of_hosts() if sys.argv[1:] == [HOSTS] else requirements(), end="")
