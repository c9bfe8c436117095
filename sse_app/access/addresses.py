"""`Address`: the address of the client that sent a request.

The address of the connection's peer is certain. A header with another address counts only if the
peer is one of `TRUSTED_PROXIES`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest

from ..conf import settings
from ..protocol.headers import header
from ..runtime.telemetry import log_fields

#: The entry of `TRUSTED_PROXIES` for peers without an address: those on a Unix socket.
UNIX: Final = "unix"
#: One customer can use any address of a /64 (RFC 6177).
IPV6_PREFIX: Final = 64
#: Many providers give each customer a /56, which is 256 of a /64; others share one among customers.
IPV6_SITE_PREFIX: Final = 56
#: The factor of a limit by address for a client that may have several addresses.
SITE_SHARE: Final = 4

_HEADER: Final = re.compile(r"[A-Za-z0-9-]+\Z", re.ASCII)
#: Headers that only proxies add.
_PROXY_HEADERS: Final = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Real-IP")
#: Only the end of the header is read: more than proxies write, and cheap if a client forges more.
_HEADER_CHARACTERS: Final = 2048

logger = logging.getLogger("sse_app")

IP = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Address:
    """A client's address. `text` is the address itself, empty for a peer without an address.

    `shares` are the keys by which streams and messages are counted, each with the factor of its
    limits: the address, or for IPv6 its /64 and, with the factor `SITE_SHARE`, its /56. `limited`:
    whether limits by address apply to streams. A loopback or private peer may be a proxy that is
    not configured, and all clients behind such a proxy would count as one.
    """

    text: str
    shares: Mapping[str, int]
    limited: bool


@dataclass(frozen=True)
class Proxies:
    """The proxies whose header with the client's address is trusted."""

    networks: Sequence[Network]
    unix: bool

    def __contains__(self, ip: object) -> bool:
        if ip is None:
            return self.unix
        return any(ip in network for network in self.networks)


def client_address(scope: Mapping[str, Any]) -> Address:
    """Return the address of the client of an ASGI request.

    The address is the peer's. If the peer is a trusted proxy, the address is the right-most entry
    of `PROXY_HEADER` that is not itself a trusted proxy, since the client may have forged every
    entry to its left. If that entry is no address, the peer's address counts.

    Never raises for anything a client sends. Raises `ImproperlyConfigured` for invalid settings.
    """
    trusted = trusted_proxies()
    peer = _parse(str((scope.get("client") or [""])[0] or ""))
    ip = _forwarded(scope, trusted) or peer if peer in trusted else peer
    limited = bool(settings().TRUSTED_PROXIES) or (ip is not None and ip.is_global)
    return Address(_text(ip), _shares(ip), limited)


def address_of(request: HttpRequest) -> Address:
    """Return the address of the client of a view's request, by ASGI or WSGI.

    See `client_address()`. Under WSGI a client can forge the address: there `X_Forwarded_For` is
    the same name, unless the server drops it. So use it only for rates.
    """
    scope = getattr(request, "scope", None)
    if scope is None:
        headers = [(k.encode("latin1"), v.encode("latin1")) for k, v in request.headers.items()]
        scope = {"client": [request.META.get("REMOTE_ADDR", "")], "headers": headers}
    return client_address(scope)


def trusted_proxies() -> Proxies:
    """Return the setting `TRUSTED_PROXIES`.

    Raises `ImproperlyConfigured` that names an entry other than a network or "unix".
    """
    entries = _listed("TRUSTED_PROXIES", settings().TRUSTED_PROXIES, "['10.0.0.0/8', 'unix']")
    return _proxies(entries)


def metrics_networks() -> Sequence[Network]:
    """Return the setting `METRICS_ADDRESSES`.

    Raises `ImproperlyConfigured` that names an entry other than a network.
    """
    entries = _listed("METRICS_ADDRESSES", settings().METRICS_ADDRESSES, "['10.0.0.0/8']")
    return _networks("METRICS_ADDRESSES", entries, "")


def may_read_metrics(scope: Mapping[str, Any]) -> bool:
    """Whether the client of an ASGI request is in `METRICS_ADDRESSES`.

    The address of a proxy counts only if the proxy is in `TRUSTED_PROXIES`: else all clients
    behind the proxy could read the metrics. A proxy is recognized by the headers that proxies add.
    Raises `ImproperlyConfigured`.
    """
    networks = metrics_networks()
    if not networks:
        return False
    peer = _parse(str((scope.get("client") or [""])[0] or ""))
    if peer not in trusted_proxies() and any(header(scope, name) for name in _PROXY_HEADERS):
        return False
    ip = _parse(client_address(scope).text)
    return ip is not None and any(ip in network for network in networks)


def _listed(key: str, entries: object, example: str) -> tuple[object, ...]:
    if isinstance(entries, str) or not isinstance(entries, Sequence):
        raise ImproperlyConfigured(
            f"SSE_APP[{key!r}] is {entries!r}; it must be a list, for example {example}."
        )
    return tuple(entries)


def proxy_header() -> str:
    """Return the setting `PROXY_HEADER`.

    Raises `ImproperlyConfigured` for an invalid name, and for `Forwarded`: its syntax (RFC 7239) is
    not a list of addresses.
    """
    name = settings().PROXY_HEADER
    if not isinstance(name, str) or not _HEADER.match(name) or name.lower() == "forwarded":
        raise ImproperlyConfigured(
            f"SSE_APP['PROXY_HEADER'] is {name!r}; it must be the name of a header that has "
            "addresses only, as HTTP spells it: 'X-Forwarded-For' or 'X-Real-IP', for example. "
            "A proxy that sends 'Forwarded' must be set to send one of these instead."
        )
    return name


@lru_cache
def _proxies(entries: tuple[object, ...]) -> Proxies:
    networks = tuple(entry for entry in entries if entry != UNIX)
    hint = ", or 'unix' for peers on a Unix socket"
    return Proxies(_networks("TRUSTED_PROXIES", networks, hint), UNIX in entries)


@lru_cache
def _networks(key: str, entries: tuple[object, ...], hint: str) -> Sequence[Network]:
    networks: list[Network] = []
    for entry in entries:
        try:
            if not isinstance(entry, str):
                raise ValueError("it is not a string")
            networks.append(ip_network(entry))
        except ValueError as error:
            raise ImproperlyConfigured(
                f"SSE_APP[{key!r}] has {entry!r} ({error}); an entry is an address or a network "
                f"such as '10.0.0.0/8'{hint}."
            ) from error
    return networks


def _forwarded(scope: Mapping[str, Any], trusted: Proxies) -> IP | None:
    """Return the client's address by a trusted proxy's header, None if it has no valid one."""
    name = proxy_header()
    value = header(scope, name)[-_HEADER_CHARACTERS:]
    ip: IP | None = None
    for entry in reversed(value.split(",")):
        ip = _parse(entry)
        if ip is None:
            _warn_of_unreadable(name)
            return None
        if ip not in trusted:
            return ip
    return ip  # Every entry is a trusted proxy: the client is one of the site's own machines.


@lru_cache(maxsize=8)
def _warn_of_unreadable(name: str) -> None:
    logger.warning(
        "A trusted proxy sent a request without an address in %s: such requests are counted as "
        "the proxy's own. Set SSE_APP['PROXY_HEADER'] to the header that the proxy sets.",
        name,
        extra=log_fields(),
    )


@lru_cache(maxsize=1024)
def _parse(text: str) -> IP | None:
    """Return the address in `text`, with or without brackets, port and zone; None if invalid."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


def _text(ip: IP | None) -> str:
    return "" if ip is None else str(ip)


@lru_cache(maxsize=1024)
def _shares(ip: IP | None) -> Mapping[str, int]:
    if isinstance(ip, IPv6Address):
        near, site = (
            IPv6Network((ip, size), strict=False) for size in (IPV6_PREFIX, IPV6_SITE_PREFIX)
        )
        return {str(near): 1, str(site): SITE_SHARE}
    return {UNIX if ip is None else str(ip): 1}
