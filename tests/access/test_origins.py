"""Which hosts, origins and sites may ask, and what CORS says to browsers."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest
from django.core.handlers.asgi import ASGIRequest
from django.test import override_settings

from sse_app.access import origins
from sse_app.access.refusals import Refused
from sse_app.checks.settings import check_settings

from ..support.patience import PATIENCE
from ..support.servers import Daphne

OWN = "https://www.example.com"
LISTED = "https://app.example.org:8443"
OTHER = "https://evil.example"


def request(method: str = "GET", scheme: str = "https", **headers: str) -> ASGIRequest:
    sent = {"host": "www.example.com", **headers}
    pairs = [(name.replace("_", "-").encode(), sent[name].encode()) for name in sent]
    scope = {"type": "http", "method": method, "path": "/events/", "scheme": scheme}
    return ASGIRequest({**scope, "headers": pairs}, BytesIO())


@pytest.fixture(autouse=True)
def configured(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["www.example.com", "[::1]"]
    settings.SSE_APP = {"ALLOWED_ORIGINS": [LISTED]}


def refused(asked: ASGIRequest) -> int:
    """Return the status of the refusal, 0 if there is none."""
    try:
        origins.check(asked)
    except Refused as refused:
        return refused.status if str(refused) else -1
    return 0


# --- who may ask ---


def test_a_program_that_is_no_browser_may_ask() -> None:
    assert refused(request()) == 0


def test_a_host_that_is_not_allowed_may_not_be_asked() -> None:
    for headers in ({}, {"origin": OWN}, {"sec_fetch_site": "same-origin"}):
        assert refused(request(**{"host": "evil.example", **headers})) == 400


@pytest.mark.parametrize(
    ("site", "origin", "status"),
    [
        # What a page can't make another site's browser say.
        ("same-origin", None, 0),
        ("same-origin", OWN, 0),
        ("same-origin", "https://changed-by-a-proxy.example", 0),
        ("none", None, 0),
        # Browsers that do not tell the site.
        (None, OWN, 0),
        (None, LISTED, 0),
        (None, OTHER, 403),
        (None, "null", 403),
        # Sibling subdomains are other people's as much as other sites.
        ("same-site", None, 403),
        ("same-site", "https://blog.example.com", 403),
        ("same-site", OWN, 0),
        ("same-site", LISTED, 0),
        ("cross-site", None, 403),
        ("cross-site", OTHER, 403),
        ("cross-site", LISTED, 0),
        ("cross-site", OWN, 0),
        ("cross-site", "null", 403),
        # What nobody knows yet is taken for the worst.
        ("something-new", None, 403),
        ("", None, 403),
        ("same-origin, cross-site", None, 403),
    ],
)
def test_the_site_and_the_origin_decide(site: str | None, origin: str | None, status: int) -> None:
    given = {"sec_fetch_site": site, "origin": origin}
    headers = {name: value for name, value in given.items() if value is not None}
    assert refused(request(**headers)) == status


@pytest.mark.parametrize(
    "origin",
    [
        "http://www.example.com",
        "https://www.example.com:444",
        "https://example.com",
        "https://www.example.com.evil.example",
        "https://www.example.com/",
        "https://www.example.com@evil.example",
        "https://user@www.example.com",
        "https://www.example.com,https://www.example.com",
        "https://www.example.com https://evil.example",
        "https://app.example.org",
        "https://app.example.org:443",
        "http://app.example.org:8443",
        "https://x.app.example.org:8443",
        "https://app.example.org:port",
        "https://[::1",
        "https://",
        "//www.example.com",
        "*",
        "",
        "null",
        "ħttps://www.example.com",
    ],
)
def test_only_the_exact_origin_is_the_origin(origin: str) -> None:
    assert refused(request(origin=origin)) == 403


@pytest.mark.parametrize(
    ("host", "scheme", "origin"),
    [
        ("www.example.com", "https", "https://www.example.com:443"),
        ("www.example.com:443", "https", "https://www.example.com"),
        ("www.example.com:8000", "http", "http://www.example.com:8000"),
        ("WWW.example.com", "http", "http://www.example.com"),
        ("[::1]:8000", "http", "http://[::1]:8000"),
    ],
)
def test_default_ports_and_capitals_make_no_other_origin(
    host: str, scheme: str, origin: str
) -> None:
    assert refused(request(scheme=scheme, host=host, origin=origin)) == 0


def test_behind_a_proxy_that_ends_tls_the_scheme_is_the_one_it_tells(settings: Any) -> None:
    asked = {"scheme": "http", "origin": OWN, "x_forwarded_proto": "https"}
    assert refused(request(**asked)) == 403
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert refused(request(**asked)) == 0


def test_the_origin_null_is_anybodys_unless_it_is_listed(settings: Any) -> None:
    asked = request(origin="null", sec_fetch_site="cross-site")
    assert refused(asked) == 403
    settings.SSE_APP = {"ALLOWED_ORIGINS": ["null"]}
    assert refused(asked) == 0


def test_what_is_refused_is_named_at_a_bounded_length() -> None:
    with pytest.raises(Refused, match=r"ALLOWED_ORIGINS") as caught:
        origins.check(request(origin=OTHER + "x" * 10_000))
    assert OTHER in str(caught.value)
    assert len(str(caught.value)) < 400


# --- CORS ---


def headers_of(pairs: origins.Headers) -> dict[str, str]:
    assert len({name for name, _ in pairs}) == len(pairs)
    return {name.decode(): value.decode() for name, value in pairs}


def test_without_configuration_there_is_no_cors(settings: Any) -> None:
    settings.SSE_APP = {}
    for origin in (OWN, LISTED, "null"):
        asked = request("OPTIONS", origin=origin, access_control_request_method="GET")
        assert origins.cors_headers(asked.scope) == []
        assert origins.preflight(asked.scope) == []


def test_a_listed_origin_may_read_with_its_cookies_and_every_answer_varies() -> None:
    assert headers_of(origins.cors_headers(request(origin=LISTED).scope)) == {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": LISTED,
        "Access-Control-Allow-Credentials": "true",
    }
    for other in ({}, {"origin": OTHER}, {"origin": OWN}, {"origin": "null"}, {"origin": "*"}):
        assert headers_of(origins.cors_headers(request(**other).scope)) == {"Vary": "Origin"}


def test_a_preflight_lets_a_listed_origin_send_the_headers_of_a_stream() -> None:
    asked = request(
        "OPTIONS",
        origin=LISTED,
        access_control_request_method="GET",
        access_control_request_headers="last-event-id",
    )
    answer = headers_of(origins.preflight(asked.scope))
    assert answer.pop("Access-Control-Allow-Methods") == "GET"
    allowed = answer.pop("Access-Control-Allow-Headers").split(", ")
    assert allowed == ["Last-Event-ID", "Cache-Control", "Authorization"]
    assert int(answer.pop("Access-Control-Max-Age")) > 0
    assert answer == headers_of(origins.cors_headers(asked.scope))


def test_a_preflight_of_another_origin_allows_nothing() -> None:
    asked = request("OPTIONS", origin=OTHER, access_control_request_method="GET")
    assert headers_of(origins.preflight(asked.scope)) == {"Vary": "Origin"}


def test_options_that_is_no_preflight_is_told_no_methods() -> None:
    assert "Access-Control-Allow-Methods" not in headers_of(
        origins.preflight(request("OPTIONS", origin=LISTED).scope)
    )


@pytest.mark.parametrize(
    "listed",
    [
        ["*"],
        ["https://*.example.com"],
        ["https://www.example.com/"],
        ["https://www.example.com/path"],
        ["https://www.example.com?x"],
        ["www.example.com"],
        ["https://"],
        ["https://user@example.com"],
        ["https://example.com:port"],
        ["https://bücher.example"],
        [" https://example.com"],
        ["https://example.com\n"],
        [5],
        "https://www.example.com",
        None,
    ],
)
def test_an_entry_that_is_no_exact_origin_is_named(listed: Any) -> None:
    with override_settings(SSE_APP={"ALLOWED_ORIGINS": listed}):
        (message,) = check_settings(None)
    assert message.id == "sse_app.E010"
    assert repr(listed[0] if isinstance(listed, list) else listed) in message.msg
    assert "'https://www.example.com'" in message.msg


def test_origins_of_all_kinds_can_be_listed() -> None:
    listed = [OWN, "http://localhost:8000", "http://[::1]:8000", "capacitor://localhost", "null"]
    with override_settings(SSE_APP={"ALLOWED_ORIGINS": listed}):
        assert check_settings(None) == []
        for origin in listed:
            assert origins.is_allowed(origin)


# --- over a real server ---


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daphne]:
    """A server that lets one other origin in, and has a place for one stranger."""
    folder = tmp_path_factory.mktemp("origins")
    environment = {"DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}", "REDIS_URL": ""}
    server = Daphne(
        folder,
        environment,
        HEARTBEAT=0.4,
        ALLOWED_ORIGINS=[LISTED],
        STREAMS_PER_ANONYMOUS_ADDRESS=1,
        TRUSTED_PROXIES=["127.0.0.1"],
    )
    server.manage("migrate", "--verbosity", "0")
    yield server.start()
    server.close()


def asked(server: Daphne, method: str = "GET", query: str = "group=clock", **headers: str) -> Any:
    """Return the answer without the rest of its stream."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{server.url}/events/?{query}"
    with httpx.stream(method, url, headers=named, timeout=PATIENCE) as answer:
        return answer


SECURE = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
}


def test_every_kind_of_answer_has_the_security_headers_and_what_cors_needs(
    server: Daphne,
) -> None:
    """Also those that are no stream: without, a browser would never come back."""
    kinds = {
        "stream": ({}, 200),
        # From another address: the stream before may still have the only slot of its own.
        "forbidden": ({"query": "group=secret", "x_forwarded_for": "9.9.9.8"}, 403),
        "malformed": ({"query": "group=a%20b"}, 400),
        "head": ({"method": "HEAD"}, 200),
        "options": ({"method": "OPTIONS"}, 204),
        "other": ({"method": "POST"}, 405),
    }
    for kind, (given, status) in kinds.items():
        for origin, allowed in ((LISTED, LISTED), (server.url, None)):
            answer = asked(server, origin=origin, **given)
            assert answer.status_code == status, kind
            assert SECURE.items() <= dict(answer.headers).items(), kind
            assert answer.headers["vary"] == "Origin", kind
            assert answer.headers.get("access-control-allow-origin") == allowed, kind
            credentials = answer.headers.get("access-control-allow-credentials")
            assert credentials == ("true" if allowed else None), kind


def test_a_page_of_another_origin_that_is_asked_to_come_again_hears_it(server: Daphne) -> None:
    url = f"{server.url}/events/?group=clock"
    # From an address of their own, so that nobody else's stream is in the way.
    headers = {"Origin": LISTED, "X-Forwarded-For": "9.9.9.9"}
    with httpx.stream("GET", url, headers=headers, timeout=PATIENCE) as held:
        assert held.status_code == 200
        busy = httpx.get(url, headers=headers, timeout=PATIENCE)
        assert "event: sse.busy" in busy.text
        assert busy.headers["access-control-allow-origin"] == LISTED


def test_a_browsers_preflight_of_a_resuming_stream_is_answered(server: Daphne) -> None:
    preflight = {
        "access_control_request_method": "GET",
        "access_control_request_headers": "cache-control,last-event-id",
        "sec_fetch_mode": "cors",
        "sec_fetch_site": "cross-site",
    }
    answer = asked(server, "OPTIONS", origin=LISTED, **preflight)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == LISTED
    assert answer.headers["access-control-allow-methods"] == "GET"
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert {"last-event-id", "cache-control"} <= set(allowed)
    refused = asked(server, "OPTIONS", origin=OTHER, **preflight)
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers


def test_the_rules_hold_for_streams(server: Daphne) -> None:
    for headers, status in (
        ({}, 200),
        ({"origin": server.url}, 200),
        ({"origin": LISTED, "sec_fetch_site": "cross-site"}, 200),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"origin": OTHER}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example"}, 400),
    ):
        assert asked(server, **headers).status_code == status


def test_without_configuration_no_answer_speaks_of_cors(shared_daphne: Daphne) -> None:
    for method, headers in (("GET", {}), ("GET", {"origin": shared_daphne.url}), ("OPTIONS", {})):
        answer = asked(shared_daphne, method, **headers)
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "vary" not in answer.headers
