"""Which hosts, origins and sites a request may come from, and what CORS tells browsers of it.

A consumer runs behind no middleware of Django's, so this is its `ALLOWED_HOSTS` check, and its
answer to what other sites make a visitor's browser ask for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.core.exceptions import DisallowedHost, ImproperlyConfigured
from django.http import HttpRequest
from django.utils.http import is_same_domain

from ..conf import settings
from ..protocol.headers import header
from .refusals import Refused

Headers = list[tuple[bytes, bytes]]

#: Beside the content type and cache headers, on every answer. `nosniff`: text that a group's
#: members wrote is no HTML. The policy: a stream opened in a tab or error page runs nothing, and
#: no page frames it, which would hold a connection with the visitor's cookies. Resource policy:
#: no other site embeds it without CORS, as a script or image, which would pull it into a process
#: of theirs; what `ALLOWED_ORIGINS` lets in asks by CORS and is not concerned. No Referrer-Policy
#: and no HSTS: nothing is followed from here, and Django's pages set the latter for the whole host.
SECURITY_HEADERS: Final = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Content-Security-Policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)
#: What a page of an allowed origin may send beside what CORS always lets through.
ALLOWED_REQUEST_HEADERS: Final = b"Last-Event-ID, Cache-Control, Authorization"
#: Seconds for which a browser need not ask again; no browser keeps it longer than its own bound.
PREFLIGHT_AGE: Final = 7200

#: `Sec-Fetch-Site` of requests that no page of another site makes: they come from this site's
#: pages, or the visitor typed the address.
_OWN_SITES: Final = frozenset({"same-origin", "none"})
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*\Z", re.ASCII)
_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}


def check(request: HttpRequest) -> None:
    """Raise `Refused` for a host, origin or site that may not ask; does no I/O.

    A program that sends neither `Origin` nor `Sec-Fetch-Site` passes, since it brings no visitor's
    cookies. So does what the browser itself says is of the same origin, even if a proxy changed
    host or scheme on the way. Everything else needs an `Origin` that is the request's own or in
    `ALLOWED_ORIGINS`: also a sibling subdomain, as that may be somebody else's, and also the
    requests of images, scripts and links on other sites, which send none: they would hold a
    stream, and a place of the visitor's, open in vain.
    """
    try:
        host = request.get_host()
    except DisallowedHost as error:
        raise Refused(400, "The Host header is not one of ALLOWED_HOSTS.") from error
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site")
    if site in _OWN_SITES or (site is None and origin is None):
        return
    if origin is None:
        raise Refused(403, "Another site's page asked, and without an Origin header.")
    if is_allowed(origin) or _is_own(origin, f"{request.scheme}://{host}"):
        return
    raise Refused(403, f"The origin {origin[:200]!r} is not in SSE_APP['ALLOWED_ORIGINS'].")


def check_post(request: HttpRequest) -> None:
    """Raise `Refused` for a POST that a browser makes for another site's page; does no I/O.

    Beside the CSRF check, which compares a token that may have leaked. The page's origin must be
    the request's own, in `ALLOWED_ORIGINS` or in Django's `CSRF_TRUSTED_ORIGINS`: also that of a
    sibling subdomain. Programs and old browsers send no `Sec-Fetch-Site`, and pass.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is None or site in _OWN_SITES:
        return
    origin = request.headers.get("Origin", "null")
    if not is_allowed(origin) and not _is_trusted(origin):
        raise Refused(
            403,
            f"Sec-Fetch-Site is {site[:40]!r}, and the origin {origin[:200]!r} is neither in "
            "SSE_APP['ALLOWED_ORIGINS'] nor in CSRF_TRUSTED_ORIGINS.",
        )


def is_allowed(origin: str) -> bool:
    """Whether `origin` is in `ALLOWED_ORIGINS`; "null" only if it is listed."""
    try:
        return normalize(origin) in allowed_origins()
    except ValueError:
        return False


def cors_headers(scope: Mapping[str, Any]) -> Headers:
    """Return what an answer to this request, of whatever status, needs for CORS.

    Nothing without `ALLOWED_ORIGINS`. With it, every answer varies by `Origin`, so that no cache
    gives one origin's answer to another; nothing is exposed beyond what CORS always shows.
    """
    if not allowed_origins():
        return []
    headers = [(b"Vary", b"Origin")]
    origin = header(scope, "Origin")
    if is_allowed(origin):
        headers.append((b"Access-Control-Allow-Origin", origin.encode("latin1")))
        headers.append((b"Access-Control-Allow-Credentials", b"true"))
    return headers


def preflight(scope: Mapping[str, Any]) -> Headers:
    """Return the headers of the answer to `OPTIONS`: what pages of an allowed origin may ask."""
    headers = cors_headers(scope)
    if len(headers) > 1 and header(scope, "Access-Control-Request-Method"):
        headers += [
            (b"Access-Control-Allow-Methods", b"GET"),
            (b"Access-Control-Allow-Headers", ALLOWED_REQUEST_HEADERS),
            (b"Access-Control-Max-Age", str(PREFLIGHT_AGE).encode()),
        ]
    return headers


def allowed_origins() -> frozenset[str]:
    """Return the setting `ALLOWED_ORIGINS`, each as `normalize()` spells it.

    Raises `ImproperlyConfigured` that names the entry which is no origin.
    """
    listed = settings().ALLOWED_ORIGINS
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise ImproperlyConfigured(
            f"SSE_APP['ALLOWED_ORIGINS'] is {listed!r}; it must be a list, for example "
            "['https://www.example.com']."
        )
    return _normalized(tuple(listed))


def normalize(origin: object) -> str:
    """Return `origin` in small letters and without its scheme's default port.

    Raises `ValueError` for what is not exactly an origin: scheme, host and perhaps a port.
    """
    if origin == "null":
        return "null"
    if not isinstance(origin, str) or not origin.isascii() or "*" in origin:
        raise ValueError("it must be one exact origin")
    parts = urlsplit(origin.lower())
    host, port = parts.hostname, parts.port
    if not host or not _SCHEME.match(parts.scheme):
        raise ValueError("it must begin with a scheme and a host")
    name = f"[{host}]" if ":" in host else host
    spelled = f"{parts.scheme}://{name}" + ("" if port is None else f":{port}")
    if spelled != origin.lower():
        raise ValueError("it must have no path, user, query or space")
    return spelled if port != _PORTS.get(parts.scheme) else f"{parts.scheme}://{name}"


@lru_cache
def _normalized(listed: tuple[object, ...]) -> frozenset[str]:
    found = set()
    for origin in listed:
        try:
            found.add(normalize(origin))
        except ValueError as error:
            raise ImproperlyConfigured(
                f"SSE_APP['ALLOWED_ORIGINS'] has {origin!r}: {error}, for example "
                "'https://www.example.com' or 'http://localhost:8000'."
            ) from error
    return frozenset(found)


def _is_own(origin: str, own: str) -> bool:
    try:
        return normalize(origin) == normalize(own)
    except ValueError:
        return False


def _is_trusted(origin: str) -> bool:
    scheme, _, host = origin.lower().partition("://")
    trusted = (entry.partition("://") for entry in django_settings.CSRF_TRUSTED_ORIGINS)
    # As Django's CSRF check: "https://*.example.com" is all subdomains.
    return any(one == scheme and is_same_domain(host, at.lstrip("*")) for one, _, at in trusted)
