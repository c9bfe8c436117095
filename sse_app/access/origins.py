"""Checks the host, origin and site of a request, and makes the CORS headers of the answer.

Django's middleware does not run before a consumer, so this module has the consumer's check of
`ALLOWED_HOSTS`, and its defence against requests that other sites make a browser send.
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

#: Headers of every answer.
#: * `nosniff`: a browser must not read text that a group's members wrote as HTML.
#: * Content-Security-Policy: a stream that is opened in a tab runs no script, and no page can frame
#:   it and so hold a connection with the visitor's cookies.
#: * Cross-Origin-Resource-Policy: no other site can embed a stream without CORS, as a script or an
#:   image, and so load it into its own process. Pages in `ALLOWED_ORIGINS` use CORS.
#: No Referrer-Policy and no HSTS: a stream has no links, and Django's pages set HSTS for the host.
SECURITY_HEADERS: Final = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Content-Security-Policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)
#: Request headers of a page in `ALLOWED_ORIGINS`, in addition to those that CORS always allows.
ALLOWED_REQUEST_HEADERS: Final = b"Last-Event-ID, Cache-Control, Authorization"
#: Seconds for which a browser may cache a preflight answer; browsers have their own lower limits.
PREFLIGHT_AGE: Final = 7200

#: Values of `Sec-Fetch-Site` for requests of this site's pages, and for an address that the visitor
#: typed.
_OWN_SITES: Final = frozenset({"same-origin", "none"})
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*\Z", re.ASCII)
_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}


def check(request: HttpRequest) -> None:
    """Raise `Refused` for a host, origin or site that is not permitted. Does no I/O.

    Two kinds of requests pass: programs, which send neither `Origin` nor `Sec-Fetch-Site` and have
    no visitor's cookies; and requests that the browser marks as same-origin, even if a proxy
    changed the host or the scheme.

    All others need an `Origin` that is the request's own or in `ALLOWED_ORIGINS`. A sibling
    subdomain is no exception, since it may belong to somebody else. Images, scripts and links on
    other sites send no `Origin` and are refused: they would only occupy one of the visitor's slots.
    """
    try:
        host = request.get_host()
    except DisallowedHost as error:
        host = request.headers.get("Host", "")[:200]
        text = f"The Host header {host!r} is not one of ALLOWED_HOSTS: add its name there."
        raise Refused(400, text) from error
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site")
    if site in _OWN_SITES or (site is None and origin is None):
        return
    if origin is None:
        raise Refused(403, "A page of another site sent this request, without an Origin header.")
    if is_allowed(origin) or _is_own(origin, f"{request.scheme}://{host}"):
        return
    raise Refused(403, f"The origin {origin[:200]!r} is not in SSE_APP['ALLOWED_ORIGINS'].")


def check_post(request: HttpRequest) -> None:
    """Raise `Refused` for a POST that a browser sends for a page of another site. Does no I/O.

    This check is in addition to the CSRF check, whose token may have leaked. The page's origin
    must be the request's own, in `ALLOWED_ORIGINS` or in Django's `CSRF_TRUSTED_ORIGINS`; a
    sibling subdomain is no exception. Programs and old browsers send no `Sec-Fetch-Site` and pass.
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
    """Return the CORS headers of the answer to this request, for any status.

    Without `ALLOWED_ORIGINS` there are none. With it, every answer has `Vary: Origin`, so that no
    cache gives the answer for one origin to another. No response header is exposed beyond those
    that CORS always exposes.
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
    """Return the headers of the answer to `OPTIONS`: the requests an allowed origin may send."""
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

    Raises `ImproperlyConfigured` that names an invalid origin.
    """
    listed = settings().ALLOWED_ORIGINS
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise ImproperlyConfigured(
            f"SSE_APP['ALLOWED_ORIGINS'] is {listed!r}; it must be a list, for example "
            "['https://www.example.com']."
        )
    return _normalized(tuple(listed))


def normalize(origin: object) -> str:
    """Return `origin` in lower case and without the default port of its scheme.

    Raises `ValueError` unless `origin` is a scheme, a host and optionally a port.
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
    # The same rule as in Django's CSRF check: "https://*.example.com" means all subdomains.
    return any(one == scheme and is_same_domain(host, at.lstrip("*")) for one, _, at in trusted)
