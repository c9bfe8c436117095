"""The stream's route is found as Django would find it, and ordinary requests are not resolved."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import (
    Resolver404,
    URLResolver,
    get_resolver,
    include,
    path,
    re_path,
    register_converter,
    resolve,
    set_urlconf,
)
from django.urls.resolvers import LocalePrefixPattern
from django.utils import translation
from django.utils.translation import gettext_lazy

from sse_app.asgi import is_stream
from sse_app.views import route
from sse_app.views.stream import stream

STREAMS = "sse_app.urls"


def page(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    """An ordinary view."""
    return HttpResponse()


class Known:
    """A converter of a project, whose values change."""

    regex = "[a-z]+"
    names: frozenset[str] = frozenset()

    def to_python(self, value: str) -> str:
        if value not in self.names:
            raise ValueError(value)
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(Known, "known")


class OtherResolver(URLResolver):
    """A resolver of a package, whose patterns depend on the language."""

    @property
    def url_patterns(self) -> Any:  # type: ignore[override]
        return [path("", include(STREAMS))] if translation.get_language() == "de" else []


def scope(path: str, root_path: str = "") -> dict[str, Any]:
    return {"type": "http", "path": path, "root_path": root_path}


def found_by_django(path: str) -> bool:
    """Whether Django finds the stream, by resolving the path, else the path with a slash."""
    for candidate in (path,) if path.endswith("/") else (path, f"{path}/"):
        try:
            return resolve(candidate).func is stream
        except Resolver404:
            continue
    return False


def found_behind_locale_middleware(path: str) -> bool:
    """As `found_by_django()`, in the language that the path begins with."""
    language = translation.get_language_from_path(path)
    entries = get_resolver().url_patterns
    if not language or not any(isinstance(one.pattern, LocalePrefixPattern) for one in entries):
        return found_by_django(path)
    with translation.override(language):
        return found_by_django(path)


@pytest.fixture
def site() -> Iterator[Any]:
    """Make the URLconf of the test's patterns the site's."""
    modules = []

    def install(*patterns: Any) -> None:
        module = ModuleType(f"urls_of_a_test_{len(modules)}")
        module.urlpatterns = list(patterns)  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
        changed = override_settings(ROOT_URLCONF=module.__name__)
        changed.enable()
        modules.append((module.__name__, changed))

    yield install
    for name, changed in reversed(modules):
        changed.disable()
        del sys.modules[name]


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were resolved."""
    found: list[str] = []

    def counted(path: str) -> Any:
        found.append(path)
        return resolve(path)

    monkeypatch.setattr(route, "resolve", counted)
    return found


URLCONFS = {
    "one mount": lambda: [path("events/", include(STREAMS)), path("events/list/", page)],
    "no stream": lambda: [path("", page)],
    "two mounts": lambda: [
        path("events/", include(STREAMS)),
        path("de/", include([path("live/", include((STREAMS, "sse_app"), namespace="second"))])),
    ],
    "a converter before": lambda: [path("<slug:tenant>/events/", include(STREAMS))],
    "a page takes the path": lambda: [
        path("<slug:name>/", page),
        path("events/", include(STREAMS)),
    ],
    "a page takes the path without slash": lambda: [
        path("events", page),
        path("events/", include(STREAMS)),
    ],
    "a page takes what is left": lambda: [
        path("events/", include(STREAMS)),
        re_path("", page),
    ],
    "an expression": lambda: [re_path(r"^(?:live|events)/", include(STREAMS))],
    "an open expression": lambda: [re_path(r"events/", include(STREAMS))],
    "languages": lambda: i18n_patterns(path("events/", include(STREAMS))),
    "languages but the first": lambda: i18n_patterns(
        path("events/", include(STREAMS)), prefix_default_language=False
    ),
    "a translated route": lambda: [path(gettext_lazy("Yes"), include(STREAMS))],
    "a page in one language": lambda: [
        path(gettext_lazy("Yes"), page),
        re_path(r"^(?:Yes|Ja)", include(STREAMS)),
    ],
    "a converter of the project": lambda: [path("<known:tenant>/events/", include(STREAMS))],
    "a converter of the project elsewhere": lambda: [
        path("<known:tenant>/", page),
        path("events/", include(STREAMS)),
    ],
    "a resolver of a package": lambda: [
        OtherResolver(path("live/", include([])).pattern, []),
    ],
}
PATHS = [
    *("/", "/events", "/events/", "/events/list/", "/events/send/", "/eventsx", "//events/"),
    *("/de/events/", "/en/events/", "/en-us/events/", "/de/live/", "/live/", "/live", "/x/events/"),
    *("/Yes", "/Ja", "/acme/events/", "/acme/events", "/acme/", "/a/b/events/", "/events//", ""),
]


@pytest.mark.parametrize("name", URLCONFS)
def test_a_path_is_the_streams_exactly_if_django_resolves_it_to_the_stream(
    site: Any, name: str
) -> None:
    site(*URLCONFS[name]())
    for language in ("en-us", "de", "en-us"):
        for names in (frozenset(), frozenset({"acme", "events"})):
            Known.names = names
            with translation.override(language):
                expected = [path for path in PATHS if found_behind_locale_middleware(path)]
                assert [path for path in PATHS if is_stream(scope(path))] == expected
                assert [path for path in PATHS if is_stream(scope(path))] == expected, "now kept"


def test_ordinary_requests_are_not_resolved_and_a_stream_is_resolved_once(
    site: Any, resolved: list[str]
) -> None:
    pages = [path(f"page/{n}/", page) for n in range(100)]
    site(*pages, path("<slug:name>/list/", page), path("events/", include(STREAMS)))
    assert not any(is_stream(scope(f"/page/{n}/")) for n in range(100))
    assert not any(is_stream(scope(path)) for path in ("/", "/events/send/", "/nowhere"))
    assert resolved == []
    assert all(is_stream(scope("/events/")) for _ in range(100))
    assert resolved == ["/events/"]


def test_a_converter_of_the_project_does_not_have_all_requests_resolved(
    site: Any, resolved: list[str]
) -> None:
    site(path("<known:name>/", page), path("events/", include(STREAMS)))
    assert not any(is_stream(scope(f"/page/{n}/")) for n in range(100))
    assert resolved == []


def test_no_more_than_a_number_of_answers_is_kept(
    site: Any, resolved: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "KEPT", 10)
    site(path("<slug:tenant>/events/", include(STREAMS)))
    assert all(is_stream(scope(f"/t{n}/events/")) for n in range(25))
    (routes,) = [found for found in route._routes.values() if found._kept]
    assert len(routes._kept) <= 10
    assert len(resolved) == 25


def test_another_urlconf_of_the_context_has_routes_of_its_own(site: Any) -> None:
    site(path("events/", include(STREAMS)))
    assert is_stream(scope("/events/"))
    other = ModuleType("urls_of_another_host")
    other.urlpatterns = [path("live/", include(STREAMS))]  # type: ignore[attr-defined]
    sys.modules[other.__name__] = other
    try:
        set_urlconf(other.__name__)
        assert (is_stream(scope("/events/")), is_stream(scope("/live/"))) == (False, True)
    finally:
        set_urlconf(None)
        del sys.modules[other.__name__]
    assert is_stream(scope("/below/events/", root_path="/below"))
