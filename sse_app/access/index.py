"""`Index`: the objects of each key."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

_Value = TypeVar("_Value", bound=Hashable)


class Index(Generic[_Value]):
    """The objects of each key, which are no sets. Only a key with several has a set, to save
    memory.
    """

    def __init__(self) -> None:
        self._found: dict[str, _Value | set[_Value]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def get(self, key: str) -> list[_Value]:
        """Return the objects with this `key`."""
        found = self._found.get(key, set[_Value]())
        return list(found) if isinstance(found, set) else [found]

    def add(self, key: str, value: _Value) -> None:
        """Add `value` to the objects with `key`."""
        found = self._found.setdefault(key, value)
        if isinstance(found, set):
            found.add(value)
        elif found is not value:
            self._found[key] = {found, value}

    def discard(self, key: str, value: _Value) -> None:
        """Remove `value`, which must be in the index, from the objects with `key`."""
        found = self._found[key]
        if isinstance(found, set):
            found.discard(value)
        if not found or found is value:
            del self._found[key]

    def clear(self) -> None:
        """Remove all objects."""
        self._found.clear()
