"""Whether a path is that of the stream, found without resolving every request of the site.

`asgi` asks for each request, on the event loop, and Django resolves the other requests itself. So
a path is compared with the URL patterns that lead to the stream, and is resolved only if it fits
them: a pattern before them may have taken the path.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import takewhile
from typing import Any, Final
from weakref import WeakKeyDictionary

from django.urls import Resolver404, URLPattern, URLResolver, get_resolver, get_urlconf, resolve
from django.urls.resolvers import LocalePrefixPattern, RegexPattern, RoutePattern
from django.utils.translation import get_language

from .stream import stream

#: Paths whose answer is kept, for each URLconf.
KEPT: Final = 1000
#: The patterns and entries of a URLconf whose behaviour is known: it depends on the path and the
#: language only.
_PATTERNS: Final = (RoutePattern, RegexPattern, LocalePrefixPattern)
_ENTRIES: Final = (URLResolver, URLPattern)
_CONVERTERS: Final = "django.urls.converters"


class _Routes:
    """The ways to the stream in one URLconf, each a chain of patterns; see `is_stream_path()`.

    A chain ends before the first pattern that is not known. If all of the URLconf is known, answers
    are kept.
    """

    def __init__(self, root: URLResolver) -> None:
        self._is_known = True
        self._chains = {
            tuple(takewhile(_is_known, chain)) for chain in self._chains_below((), root)
        }
        self._kept: dict[tuple[str, str | None], bool] = {}

    def is_stream(self, candidates: Collection[str]) -> bool:
        """Whether the first of `candidates` that can be resolved is the stream."""
        if not any(self._may_be_stream(path) for path in candidates):
            return False
        key = next(iter(candidates)), get_language()
        found = self._kept.get(key)
        if found is None:
            found = _is_resolved(candidates)
            if self._is_known:
                if len(self._kept) >= KEPT:
                    self._kept.clear()
                self._kept[key] = found
        return found

    def _may_be_stream(self, path: str) -> bool:
        return any(_fits(path, chain) for chain in self._chains)

    def _chains_below(self, before: tuple[Any, ...], entry: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the patterns on each way to the stream, or to an entry that may lead there."""
        if type(entry) not in _ENTRIES:
            self._is_known = False
            yield before
            return
        self._is_known = self._is_known and _is_known(entry.pattern)
        chain = (*before, entry.pattern)
        if isinstance(entry, URLResolver):
            for below in entry.url_patterns:
                yield from self._chains_below(chain, below)
        elif entry.callback is stream:
            yield chain


def is_stream_path(path: str) -> bool:
    """Whether the route `sse_app:stream` has this path, with or without its last slash.

    `path` is without the script prefix. For the URLconf and the language of the caller's context.
    """
    root = get_resolver(get_urlconf())
    routes = _routes.get(root)
    if routes is None:
        routes = _routes[root] = _Routes(root)
    return routes.is_stream((path,) if path.endswith("/") else (path, f"{path}/"))


def _is_known(pattern: Any) -> bool:
    """Whether `pattern` matches by the path and the language only.

    A project's own converter may, for example, read the database.
    """
    converters = getattr(pattern, "converters", {}).values()
    return type(pattern) in _PATTERNS and all(
        type(converter).__module__ == _CONVERTERS for converter in converters
    )


def _fits(path: str, chain: tuple[Any, ...]) -> bool:
    for pattern in chain:
        match = pattern.match(path)
        if not match:
            return False
        path = match[0]
    return True


def _is_resolved(candidates: Collection[str]) -> bool:
    for path in candidates:
        try:
            return resolve(path).func is stream
        except Resolver404:
            continue
    return False


#: Django makes another resolver when a URLconf is reloaded.
_routes: WeakKeyDictionary[URLResolver, _Routes] = WeakKeyDictionary()
