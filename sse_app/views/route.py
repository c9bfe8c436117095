"""Which view answers in front of Django, found without resolving every request of the site.

The stream does, and `health/`. `asgi` asks for each request, on the event loop, and Django resolves
the other requests itself. So a path is compared with the URL patterns that lead to these views, and
is resolved only if it fits them: a pattern before them may have taken the path.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import takewhile
from typing import Any, Final
from weakref import WeakKeyDictionary

from django.urls import Resolver404, URLPattern, URLResolver, get_resolver, get_urlconf, resolve
from django.urls.resolvers import LocalePrefixPattern, RegexPattern, RoutePattern
from django.utils.translation import get_language, get_language_from_path, override

from ..operations.health import health
from .stream import stream

View = Callable[..., Any]

#: The views that answer in front of Django.
IN_FRONT: Final = (stream, health)
#: Paths whose answer is kept, for each URLconf.
KEPT: Final = 1000
#: The patterns and entries of a URLconf whose behaviour is known: it depends on the path and the
#: language only.
_PATTERNS: Final = (RoutePattern, RegexPattern, LocalePrefixPattern)
_ENTRIES: Final = (URLResolver, URLPattern)
_CONVERTERS: Final = "django.urls.converters"


class _Routes:
    """The ways to the views in one URLconf, each a chain of patterns; see `view_in_front()`.

    A chain ends before the first pattern that is not known. If all of the URLconf is known, answers
    are kept.
    """

    def __init__(self, root: URLResolver) -> None:
        self._is_known = True
        self._chains = {
            tuple(takewhile(_is_known, chain)) for chain in self._chains_below((), root)
        }
        self.has_languages = any(
            isinstance(pattern, LocalePrefixPattern) for chain in self._chains for pattern in chain
        )
        self._kept: dict[tuple[str, str | None], View | None] = {}

    def view(self, candidates: Collection[str]) -> View | None:
        """Return the view of the first of `candidates` that can be resolved, if it is in front."""
        if not any(_fits(path, chain) for path in candidates for chain in self._chains):
            return None
        key = next(iter(candidates)), get_language()
        if key in self._kept:
            return self._kept[key]
        found = _resolved(candidates)
        if self._is_known:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[key] = found
        return found

    def _chains_below(self, before: tuple[Any, ...], entry: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the patterns on each way to the views, or to an entry that may lead there."""
        if type(entry) not in _ENTRIES:
            self._is_known = False
            yield before
            return
        self._is_known = self._is_known and _is_known(entry.pattern)
        chain = (*before, entry.pattern)
        if isinstance(entry, URLResolver):
            for below in entry.url_patterns:
                yield from self._chains_below(chain, below)
        elif entry.callback in IN_FRONT:
            yield chain


def view_in_front(path: str) -> View | None:
    """Return which view in front of Django has this path, with or without its last slash.

    `path` is without the script prefix. For the URLconf and the language of the caller's context:
    a middleware that chooses another one has not run yet. With `i18n_patterns()`, a language at the
    beginning of the path counts, as in Django's `LocaleMiddleware`.
    """
    root = get_resolver(get_urlconf())
    routes = _routes.get(root)
    if routes is None:
        routes = _routes[root] = _Routes(root)
    candidates = (path,) if path.endswith("/") else (path, f"{path}/")
    language = get_language_from_path(path) if routes.has_languages else None
    if language is None:
        return routes.view(candidates)
    with override(language):
        return routes.view(candidates)


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


def _resolved(candidates: Collection[str]) -> View | None:
    for path in candidates:
        try:
            found = resolve(path).func
        except Resolver404:
            continue
        return found if found in IN_FRONT else None
    return None


#: Django makes another resolver when a URLconf is reloaded.
_routes: WeakKeyDictionary[URLResolver, _Routes] = WeakKeyDictionary()
