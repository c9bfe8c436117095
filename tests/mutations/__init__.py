"""Each answer of the code to a trap, taken out one at a time: a test must fail without it.

`make mutations` does so in a copy of the tree, and `tests/doors/test_mutations.py` sees to it that
the lists here still fit the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Mutation:
    """`old`, which `file` has exactly once, becomes `new`, and one of `tests` must fail.

    `trap` says what the code there is for, `file` is a path from the root, and `tests` are node
    ids below `tests/`.
    """

    trap: str
    file: str
    old: str
    new: str
    tests: Sequence[str]

    def mutate(self, text: str) -> str:
        """Return `text` without the answer; raises `ValueError` unless it is there once."""
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.file} has {self.old!r} {count} times, not once")
        return text.replace(self.old, self.new)

    @property
    def where(self) -> str:
        """The file and line that it changes."""
        text = (ROOT / self.file).read_text()
        return f"{self.file}:{text[: text.find(self.old)].count(chr(10)) + 1}"


def mutations() -> list[Mutation]:
    """Return all of them."""
    from ..mutations import data, layers, pages, presence, rights, servers, states, wire

    lists = (servers, layers, wire, data, rights, presence, pages, states)
    return [mutation for each in lists for mutation in each.MUTATIONS]
