"""JSON bodies: what is refused before anything works on it."""

from __future__ import annotations

import gc
import json
import sys
from contextlib import suppress
from io import BytesIO
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIRequest
from django.http import JsonResponse
from django.test import Client, RequestFactory, override_settings

from sse_app.access.refusals import Refused
from sse_app.urls import urlpatterns
from sse_app.views.bodies import _STRING, MAX_DEPTH, answers_refusals, read_object


def request(body: str | bytes, content_type: str = "application/json", **extra: Any) -> Any:
    return RequestFactory().post("/", body, content_type=content_type, **extra)


def without_a_length(body: bytes) -> ASGIRequest:
    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    return ASGIRequest({**scope, "query_string": b""}, BytesIO(body))


def refused(body: str | bytes, **extra: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        read_object(request(body, **extra))
    return caught.value


def nested(levels: int, opened: str = "[", closed: str = "]") -> str:
    """An object whose data brings it to `levels` levels."""
    inner = levels - 1
    return '{"data": ' + opened * inner + ("1" if opened != "[" else "") + closed * inner + "}"


@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a": ', "}")])
def test_json_may_nest_to_the_limit_and_no_deeper(brackets: tuple[str, str]) -> None:
    assert "data" in read_object(request(nested(MAX_DEPTH, *brackets)))
    refusal = refused(nested(MAX_DEPTH + 1, *brackets))
    assert refusal.status == 400
    assert str(MAX_DEPTH) in str(refusal.message)


@pytest.mark.parametrize("body", ["[" * 120_000, '{"a":' * 20_000, "[{" * 50_000])
def test_depth_is_refused_before_anything_recurses(
    body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("it was parsed"))
    assert f"{MAX_DEPTH} levels" in str(refused(body).message)


def test_brackets_side_by_side_or_in_strings_are_not_depth() -> None:
    data = [[]] * 1000 + ["[" * 1000, '"[' * 1000, "\\[" * 1000, "\\"]
    assert read_object(request(json.dumps({"data": data})))["data"] == data


@pytest.mark.parametrize("text", ['"' + '\\"' * 60_000, '"' * 119_999, '"\\"' * 40_001 + "\\"])
def test_no_quote_of_a_cut_off_string_is_looked_at_twice(text: str) -> None:
    # A quote at which the pattern did not match would have been tried in vain, up to the end.
    sent = text.encode()
    matched = sum(match[0].count(b'"') for match in _STRING.finditer(sent))
    assert matched == sent.count(b'"')
    assert refused(text).status == 400


@pytest.mark.parametrize(
    "part", ["[]", "[],", "{},", '"[",', '{"a": 1},', "[" * 31 + "]" * 31 + ","]
)
def test_reading_a_long_body_runs_no_more_lines_of_python_than_a_short_one(part: str) -> None:
    def body(count: int) -> Any:
        return request('{"data": [' + part * count + "0]}")

    lines_run(body(1))  # The first one imports modules.
    assert lines_run(body(100_000 // len(part))) == lines_run(body(1))


def lines_run(asked: Any) -> int:
    """How many lines of Python `read_object()` runs, those of the libraries included."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    gc.disable()  # Hypothesis has Python code run at each collection.
    sys.settrace(trace)
    try:
        with suppress(Refused):
            read_object(asked)
    finally:
        sys.settrace(before)
        gc.enable()
    return count


@pytest.mark.parametrize("body", ["[]", "5", "null", '"text"', "true"])
def test_what_is_no_object_is_400(body: str) -> None:
    refusal = refused(body)
    assert (refusal.status, "JSON object" in str(refusal.message)) == (400, True)


@pytest.mark.parametrize(
    "body",
    [
        b" ",
        b"{",
        b"}",
        b'{"a": 1}]',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": ' + b"9" * 5000 + b"}",
        '{"a": 1}'.encode("utf-16"),
        b'{"a": "\xff"}',
    ],
)
def test_what_json_or_utf8_cannot_hold_is_400(body: bytes) -> None:
    assert refused(body).status == 400


def test_a_byte_order_mark_is_passed_over() -> None:
    assert read_object(request(b'\xef\xbb\xbf{"a": 1}')) == {"a": 1}


def test_a_long_body_is_413_whatever_length_it_says() -> None:
    with override_settings(SSE_APP={"MAX_BODY_BYTES": 10}):
        assert refused('{"a": "long"}').status == 413
        with pytest.raises(Refused, match="10 bytes"):
            read_object(without_a_length(b'{"a": "long"}'))
        assert refused("{}", CONTENT_LENGTH="11").status == 413
    assert refused("{}", CONTENT_LENGTH="ten").status == 400


def test_another_content_type_is_415() -> None:
    assert refused("{}", content_type="text/plain").status == 415


def test_a_refusal_is_the_views_answer_with_its_headers() -> None:
    @answers_refusals
    def view(request: Any, refuse: bool) -> Any:
        if refuse:
            raise Refused(429, ["slow"], {"Retry-After": "3"})
        return JsonResponse({})

    answer = view(request("{}"), refuse=True)
    assert (answer.status_code, answer["Retry-After"]) == (429, "3")
    assert json.loads(answer.content) == {"error": ["slow"]}
    assert view(request("{}"), refuse=False).status_code == 200


def test_no_endpoint_needs_a_login_of_the_middleware() -> None:
    for endpoint in urlpatterns:
        assert endpoint.callback.login_required is False, endpoint


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["send", "ticket", "renew"])
def test_a_missing_token_is_said_as_json_with_what_to_do(path: str) -> None:
    answer = Client(enforce_csrf_checks=True).post(
        f"/events/{path}/", "{}", content_type="application/json"
    )
    assert answer.status_code == 403
    assert answer.json()["error"].startswith("CSRF cookie not set. The page's token is missing")
    assert "{% sse_script %}" in answer.json()["error"]
