"""The blocks of code in the documentation, and why some are not run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE: Final = re.compile(
    r"(?:^<!-- not run: (?P<why>[^>]+?) -->\n+)?"
    r"^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block; `why` says why it is not run: `<!-- not run: needs Redis -->` above it."""

    page: str
    line: int
    language: str
    code: str
    why: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(language: str) -> Iterator[Block]:
    """Each block of `language` in README.md and docs/."""
    for page in PAGES:
        text = page.read_text()
        for found in _FENCE.finditer(text):
            if found["language"] == language:
                line = text.count("\n", 0, found.start("code")) + 1
                name = page.relative_to(ROOT).as_posix()
                yield Block(name, line, language, found["code"], found["why"] or "")


#: All that is set as code: the blocks, and `what` is between backquotes.
CODE: Final = "\n".join(
    found
    for page in PAGES
    for found in re.findall(r"^```.*?^```$|`[^`\n]+`", page.read_text(), re.MULTILINE | re.DOTALL)
)
