"""Bad requests: a fixed list of what is known to hurt, and strategies for what nobody thought of.

None of them is answered with a 500.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote_from_bytes

from hypothesis import strategies as st

from .raw_http import Headers, Request

PATHS: Final = (
    b"/events/",
    b"/events",
    b"/events/send/",
    b"/events/publish/",
    b"/events/ticket/",
    b"/events/renew/",
    b"/events/nothing/",
    b"/",
    b"/orders/",
    b"/orders/new/",
    b"/orders/1/advance/",
    b"/chat/lobby/",
    b"/chat/lobby/messages/",
    b"/clock/",
    b"/import/",
    b"/clock/stream/",
    b"/login/",
    b"/admin/",
)
POSTS: Final = tuple(b"/events/%b/" % name for name in (b"send", b"publish", b"ticket", b"renew"))
METHODS: Final = b"GET HEAD OPTIONS POST PUT PATCH DELETE TRACE CONNECT get PRI A B-C".split()
ODD_PATHS: Final = (
    b"//",
    b"//evil.example/chat/lobby",
    b"/../../etc/passwd",
    b"/events/../events/",
    b"/events//",
    b"/events/%",
    b"/events/%zz",
    b"/%2e%2e/%2e%2e",
    b"/%00",
    b"/events/%00/",
    b"/%ff%fe",
    b"/%c0%af",
    b"/%0d%0aSet-Cookie:%20a=b",
    b"/chat/%0d%0aX/",
    b"/chat/%E2%80%A8/",
    b"/chat/" + b"a" * 41 + b"/",
    b"/chat/" + b"a" * 5000 + b"/",
    b"/orders/99999999999999999999999/advance/",
    b"/orders/" + b"9" * 5000 + b"/advance/",
    b"/" + b"a/" * 2000,
    b"*",
    b"http://127.0.0.1/events/?group=clock",
    b"http://evil.example/",
    b"events/",
    b"?group=clock",
    b"/events/?group=clock#x",
    b"/events/;a=b?group=clock",
    b"/\xc3\xa9",
    b"/events/?group=\xff",
)
#: One of each kind that a parser, a database, a terminal or a browser stumbles over.
TEXTS: Final = (
    b"",
    b" ",
    b"\t",
    b"a\r\nb",
    b"a\nevent: forged\n\n",
    b"a\0b",
    "a\u2028b\u2029\x85".encode(),
    b"\xed\xa0\x80",
    b"\xff\xfe",
    b"\xf0\x9f\x92\xa9",
    b"<script>alert(1)</script>",
    b"' OR 1=1 --",
    b"%s%n{}{{x}}",
    b"../../x",
    b"a" * 81,
    b"a" * 3000,
    b"-1",
    b"0",
    b"1e400",
    b"9" * 400,
    b"NaN",
    b"null",
    b"*",
    b"sse.control",
    b"sse.open",
    b"clock",
    b"orders",
    b"user.1",
    b"user.99999999999999999999",
    b"1.hcozyhmc-0-1795551506",
    b"1.hcozyhmc-aaaaaaaa-1",
    b"1.hcozyhmc-aaaaaaaa-999999999999999999",
    b"1." + b".".join([b"hcozyhmc-aaaaaaaa-1"] * 100),
    b"2.x",
    b"1.",
    b"earliest",
    b"-20",
    b"-999999999",
    b"sse_1_" + b"a" * 43,
    b"sse_999999999999999999_" + b"a" * 43,
    b"W10:aaaa",
    b"W10:1:aaaa",
    b".eJw:1:a",
)
PARAMETERS: Final = (
    b"group",
    b"event",
    b"grant",
    b"ticket",
    b"last_event_id",
    b"lastEventId",
    b"from",
    b"ping",
    b"\xff",
)
HEADERS: Final = (
    b"Last-Event-ID",
    b"Authorization",
    b"Cookie",
    b"Origin",
    b"Sec-Fetch-Site",
    b"X-Forwarded-For",
    b"X-Forwarded-Host",
    b"Daphne-Root-Path",
    b"Forwarded",
    b"Host",
    b"Referer",
    b"Accept",
    b"Accept-Language",
    b"Content-Type",
    b"X-CSRFToken",
    b"Idempotency-Key",
    b"If-Modified-Since",
    b"Range",
    b"Access-Control-Request-Method",
    b"X-Odd",
)
HEADER_TEXTS: Final = (
    b"Bearer",
    b"Bearer sse_1_" + b"a" * 43,
    b"Basic Og==",
    b"sessionid=",
    b"sessionid=\xff\xfe",
    b'sessionid="\\000\\377"',
    b"sessionid=" + b"a" * 32,
    b"sessionid=" + b"a" * 4000,
    b"sessionid=a; sessionid=b",
    b"csrftoken=" + b"a" * 32,
    b"csrftoken=\xff",
    b";;;=;=a;a=;a",
    b"http://127.0.0.1",
    b"http://evil.example",
    b"http://[::1",
    b"http://a:99999",
    b"same-origin",
    b"cross-site",
    b"1.2.3.4",
    b"1.2.3.4, 10.0.0.1, x",
    b"[::1]:5, fe80::1%eth0",
    b"for=1.2.3.4;for=",
    b",,,,",
    b"evil.example",
    b"127.0.0.1:99999",
    b"127.0.0.1:x",
    b"127.0.0.1, 127.0.0.1",
    b"[::1",
    b"text/plain; charset=undefined",
    b"bytes=0-1",
)
BODIES: Final = (
    b"",
    b"x",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"NaN",
    b"9" * 5000,
    b"{}",
    b'{"group": "chat.a", "event": "chat.message", "data": {"text": "a\\u0000b"}}',
    b'{"group": "chat.a", "event": "chat.message", "data": {"text": "\\ud800"}}',
    b'{"group": "chat.a", "event": "chat.message", "data": {"text": "a\\r\\nid: 1\\n\\n"}}',
    b'{"group": "chat.a", "event": "chat.message", "data": {"text": 5}}',
    b'{"group": "chat.a", "event": "chat.message", "data": null}',
    b'{"group": "chat.a", "event": "chat.message", "data": 1e400}',
    b'{"group": "chat.a", "event": "chat.message", "data": NaN}',
    b'{"group": "chat.a", "event": "nothing", "data": {}}',
    b'{"group": "chat.a\\n", "event": "chat.message"}',
    b'{"group": "sse.control", "event": "revoked", "data": {}}',
    b'{"group": "orders", "event": "sse.close", "data": {}}',
    b'{"group": ["orders"], "event": {"a": 1}, "data": {}}',
    b'{"group": "orders", "event": "n", "data": "x", "durable": "no", "key": 5}',
    b'{"groups": ["clock"]}',
    b'{"groups": ["clock", 5, null, {}]}',
    b'{"groups": "clock"}',
    b'{"groups": {"clock": 1}}',
    b'{"groups": ["user.1", "orders"], "grant": "x"}',
    b'{"grant": null}',
    b'{"grant": ["x"]}',
    b'{"grant": "\\ud800"}',
    json.dumps({"groups": [f"chat.{n}" for n in range(5000)]}).encode(),
    b'{"a":' * 33 + b"1" + b"}" * 33,
    b"[" * 100_000,
    b'"' * 50_000,
    b'{"data": "' + b"x" * 131_072 + b'"}',
    b"x" * 300_000,
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}",
    b'{"group": "\xed\xa0\x80"}',
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    b"a=b&group=orders",
)
TYPES: Final = (
    b"application/json",
    b"application/json; charset=utf-16",
    b"text/plain",
    b"application/x-www-form-urlencoded",
    b"multipart/form-data; boundary=x",
    b"multipart/form-data",
    b"\xff/\xff",
)
#: What the length or the coding of a body claims, and whether the client has to hang up then.
FRAMINGS: Final[tuple[tuple[Headers, bytes, bool], ...]] = (
    (((b"Content-Length", b"100"),), b"{}", True),
    (((b"Content-Length", b"9" * 4000),), b"{}", True),
    (((b"Content-Length", b"1"),), b"{}", False),
    (((b"Content-Length", b"-1"),), b"{}", False),
    (((b"Content-Length", b"+2"),), b"{}", False),
    (((b"Content-Length", b"1_0"),), b"{}", False),
    (((b"Content-Length", b"x"),), b"{}", False),
    (((b"Content-Length", b"2"), (b"Content-Length", b"1")), b"{}", False),
    (((b"Transfer-Encoding", b"chunked"),), b"2\r\n{}\r\n0\r\n\r\n", False),
    (((b"Transfer-Encoding", b"chunked"),), b"2\r\n{}", True),
    (((b"Transfer-Encoding", b"chunked"),), b"zz\r\n{}\r\n0\r\n\r\n", False),
    (((b"Transfer-Encoding", b"chunked"),), b"-2\r\n{}\r\n0\r\n\r\n", False),
    (((b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"2")), b"0\r\n\r\n", False),
    (((b"Transfer-Encoding", b"gzip"),), b"{}", False),
    (((b"Content-Encoding", b"gzip"),), b"{}", False),
    (((b"Expect", b"100-continue"),), b"{}", False),
)
#: Whole requests that fit nowhere else.
ODDITIES: Final = (
    Request(b"G\xc3\x89T"),
    Request(b"GET POST"),
    Request(b"@"),
    Request(b"A" * 5000),
    Request(b"GET", b"/ HTTP/1.1 /"),
    Request(version=b"HTTP/9.9"),
    Request(version=b"HTTP/\xff"),
    Request(version=b""),
    Request(b"GET", b"/events/?group=clock", version=b"HTTP/1.0"),
    Request(b"GET", b"/events/?group=" + b"a" * 20_000),
    Request(b"GET", b"/events/?" + b"a&" * 5000),
    Request(b"GET", b"/events/?" + b"group=clock&" * 900),
    Request(b"GET", b"/events/?" + b"&".join(b"group=chat.%d" % n for n in range(21))),
    Request(headers=((b"X", b"a" * 20_000),)),
    Request(headers=((b"X", b"a"),) * 400),
    Request(headers=((b"X", b"a"),) * 1000),
    Request(headers=((b"X y", b"a"),)),
    Request(headers=((b"X", b"a\r\n b"),)),
    Request(headers=((b"X\r\nno colon", b"a"),)),
    Request(headers=((b"Host", b"127.0.0.1"), (b"Host", b"evil.example"))),
    Request(headers=((b"Cookie", b"a=b; " * 2000),)),
    Request(headers=((b"Upgrade", b"websocket"),)),
    Request(headers=((b"Upgrade", b"h2c"), (b"HTTP2-Settings", b"AAMAAABk"))),
    Request(
        headers=(
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
            (b"Sec-WebSocket-Version", b"13"),
        )
    ),
)


@dataclass(frozen=True)
class Secrets:
    """What is real on the server: a session's cookies, a grant, a ticket's and a token's text."""

    signed_in: Headers
    grant: str
    ticket: str
    token: str

    def mutated(self) -> Iterator[Request]:
        """Yield requests with secrets that are nearly right."""
        for name in ("grant", "ticket"):
            for text in _mutations(getattr(self, name)):
                yield Request(
                    target=b"/events/?%b=%b" % (name.encode(), quote_from_bytes(text).encode())
                )
        for text in _mutations(self.token):
            bearer = ((b"Authorization", b"Bearer " + text), (b"Content-Type", TYPES[0]))
            yield Request(target=b"/events/?group=clock", headers=bearer)
            yield Request(b"POST", b"/events/publish/", bearer, b"{}")
        for text in _mutations(self.grant):
            body = json.dumps({"grant": text.decode("latin1")}).encode()
            for path in (b"/events/renew/", b"/events/ticket/"):
                yield Request(b"POST", path, ((b"Content-Type", TYPES[0]),), body)


def _mutations(text: str) -> Iterator[bytes]:
    whole = text.encode()
    for at in range(0, len(whole), max(1, len(whole) // 12)):
        yield whole[:at]
        yield whole[:at] + b"\xff" + whole[at + 1 :]
        yield whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    yield from (whole + b"x", whole + b"\n", whole.upper(), whole * 2, b":" + whole)


def fixed_list() -> Iterator[Request]:
    """Yield what is asked for without a session and, by `having()`, with one."""
    yield from ODDITIES
    yield from (Request(method, path) for path in PATHS for method in METHODS)
    yield from (Request(method, path) for path in ODD_PATHS for method in (b"GET", b"POST"))
    for parameter in PARAMETERS:
        for text in TEXTS:
            pair = quote_from_bytes(parameter) + "=" + quote_from_bytes(text)
            yield Request(target=b"/events/?group=clock&" + pair.encode())
            yield Request(target=b"/events/?" + pair.encode())
    for header in HEADERS:
        for text in (*TEXTS, *HEADER_TEXTS):
            yield Request(target=b"/events/?group=clock", headers=((header, text),))
    yield from _posts()


def _posts() -> Iterator[Request]:
    for path in POSTS:
        for body in BODIES:
            yield from (Request(b"POST", path, ((b"Content-Type", kind),), body) for kind in TYPES)
        for headers, body, cut in FRAMINGS:
            yield Request(b"POST", path, ((b"Content-Type", TYPES[0]), *headers), body, cut=cut)


# --- what nobody thought of ---

_texts = st.sampled_from(TEXTS) | st.binary(max_size=40)
_header_texts = st.sampled_from(HEADER_TEXTS) | _texts
_quoted = _texts.map(lambda text: quote_from_bytes(text).encode())
_pairs = st.builds(
    lambda name, text: b"%b=%b" % (quote_from_bytes(name).encode(), text),
    st.sampled_from(PARAMETERS),
    _quoted,
)
_paths = st.sampled_from((*PATHS, *POSTS, b"/events/", b"/events/")) | _quoted.map(
    lambda text: b"/" + text
)
_targets = st.builds(
    lambda path, pairs: path + (b"?" + b"&".join(pairs) if pairs else b""),
    _paths,
    st.lists(_pairs, max_size=4),
)
_headers = st.lists(st.tuples(st.sampled_from(HEADERS), _header_texts), max_size=4).map(tuple)
_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=20)
    | st.sampled_from(["orders", "clock", "chat.a", "chat.message", "n", "user.1"])
)
_keys = st.sampled_from(["group", "event", "data", "groups", "grant", "durable", "key", "text"])
_json = st.dictionaries(
    _keys,
    st.recursive(
        _scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
        max_leaves=4,
    ),
    max_size=5,
).map(lambda value: json.dumps(value).encode())
_gets = st.builds(Request, st.sampled_from(METHODS), _targets, _headers)
_bodies = st.builds(
    lambda path, headers, body: Request(
        b"POST", path, ((b"Content-Type", b"application/json"), *headers), body
    ),
    st.sampled_from(POSTS),
    _headers,
    _json | st.binary(max_size=40),
)

#: Any request, for Hypothesis.
requests: Final = _gets | _bodies
