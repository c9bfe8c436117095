"""Bearer tokens and `manage.py sse_token`."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import CommandError, call_command
from django.db import connections, models
from django.test import RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from sse_app.access import tokens
from sse_app.access.tokens import (
    alive_token,
    averify_token,
    bearer_of,
    create_token,
    live_token,
    revoke_token,
    verify_token,
)
from sse_app.models import AccessToken

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


@pytest.fixture
def made() -> tuple[AccessToken, str]:
    return create_token("importer", publish=["import.*"], events=["row.*"], lifetime=DAY)


def expire(token: AccessToken) -> None:
    token.expires_at = timezone.now() - timedelta(seconds=1)
    token.save()


# --- making and verifying ---


def test_a_token_is_verified_by_its_text(made: tuple[AccessToken, str]) -> None:
    token, text = made
    found = verify_token(text)
    assert found == token
    assert found is not None
    assert (found.name, found.publish, found.events) == ("importer", ["import.*"], ["row.*"])


def test_the_row_holds_no_part_of_the_secret_and_no_two_are_alike(
    made: tuple[AccessToken, str],
) -> None:
    token, text = made
    prefix, number, secret = text.split("_", 2)
    assert (prefix, number, len(secret)) == ("sse", str(token.pk), 43)
    row = AccessToken.objects.values().get()
    assert secret not in str(row)
    assert text != create_token("importer", listen=["a"], lifetime=DAY)[1]


def test_a_secret_goes_with_its_own_number_only(made: tuple[AccessToken, str]) -> None:
    other, other_text = create_token("other", listen=["*"], lifetime=DAY)
    secret = made[1].split("_", 2)[2]
    assert verify_token(f"sse_{other.pk}_{secret}") is None
    assert verify_token(other_text) == other


@pytest.mark.parametrize("added", ["\n", " ", "=", "\0", "A"])
def test_a_text_with_anything_added_is_none(made: tuple[AccessToken, str], added: str) -> None:
    assert verify_token(made[1] + added) is None
    assert verify_token(added + made[1]) is None


def test_wrong_expired_and_revoked_are_none(made: tuple[AccessToken, str]) -> None:
    token, text = made
    wrong = text[:-1] + ("A" if text[-1] != "A" else "B")
    assert verify_token(wrong) is None
    expire(token)
    assert verify_token(text) is None
    late, late_text = create_token("late", listen=["a"], lifetime=DAY)
    revoke_token(late)
    assert verify_token(late_text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "sse",
        "sse_",
        "sse__",
        "sse_1",
        "sse_1_",
        "sse_x_" + "a" * 43,
        "sse_-1_" + "a" * 43,
        "sse_١_" + "a" * 43,
        "sse_1_" + "é" * 43,
        "sse_1_" + "a" * 42,
        "sse_1_" + "a" * 44,
        "sse_1_" + "a" * 43 + "\n",
        "sse_1_" + "a" * 42 + "\0",
        "sse_1_" + "a" * 42 + "\ud800",
        "sse_" + "9" * 18 + "_" + "a" * 43,
        "sse_" + "9" * 19 + "_" + "a" * 43,
        "sse_" + "9" * 10_000 + "_" + "a" * 43,
        "x" * 1_000_000,
    ],
)
@pytest.mark.django_db(databases=["default", "postgresql"])
@pytest.mark.parametrize("alias", ["default", "postgresql"])
def test_any_other_text_is_none_and_never_an_error(
    text: str, alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "written", lambda model: model.objects.using(alias))
    assert verify_token(text) is None


class Compared:
    """Notes what is compared in constant time."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []

    def compare_digest(self, one: str, two: str) -> bool:
        self.pairs.append((one, two))
        return one == two


def test_a_comparison_in_constant_time_and_one_query_are_made_also_where_there_is_no_such_number(
    made: tuple[AccessToken, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = Compared()
    monkeypatch.setattr(tokens, "hmac", compared)
    with CaptureQueriesContext(connections["default"]) as queries:
        assert verify_token(made[1]) is not None
    assert (len(queries), len(compared.pairs)) == (1, 1)
    with CaptureQueriesContext(connections["default"]) as queries:
        assert verify_token("sse_999999_" + "a" * 43) is None
    assert (len(queries), len(compared.pairs)) == (1, 2)
    assert all(len(digest) == 64 for pair in compared.pairs for digest in pair)


def test_nobody_passes_as_the_dummy() -> None:
    """Were its digest some secret's, the number of no row would still permit nothing."""

    class Agrees:
        @staticmethod
        def compare_digest(one: str, two: str) -> bool:
            return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "hmac", Agrees)
        assert verify_token("sse_999999_" + "a" * 43) is None


def test_tokens_are_never_read_from_a_replica(made: tuple[AccessToken, str]) -> None:
    class Router:
        def db_for_read(self, model: type[models.Model], **hints: Any) -> str:
            return "postgresql"  # which this test may not touch

    with override_settings(DATABASE_ROUTERS=[Router()]):
        assert verify_token(made[1]) is not None
        assert live_token(made[0].pk) is not None


def test_one_verified_before_can_be_looked_up_again(made: tuple[AccessToken, str]) -> None:
    token, _ = made
    assert live_token(token.pk) == token
    assert live_token(token.pk + 1) is None
    assert revoke_token(token) is True
    assert live_token(token.pk) is None


@pytest.mark.django_db(transaction=True)
def test_the_async_twins_do_the_same() -> None:
    token, text = create_token("a", listen=["a"], lifetime=DAY)
    assert async_to_sync(averify_token)(text) == token
    assert async_to_sync(averify_token)("x") is None
    assert async_to_sync(alive_token)(token.pk) == token
    expire(token)
    assert async_to_sync(averify_token)(text) is None
    assert async_to_sync(alive_token)(token.pk) is None


def test_revoking_again_keeps_the_first_time(made: tuple[AccessToken, str]) -> None:
    token, _ = made
    assert revoke_token(token) is True
    first = AccessToken.objects.get().revoked_at
    assert revoke_token(token) is False
    assert AccessToken.objects.get().revoked_at == first


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"listen": ["two words"]}, "'two words'"),
        ({"listen": [""]}, "''"),
        ({"publish": ["a", "b\n"]}, r"'b\\n'"),
        ({"publish": ["[a]"]}, r"'\[a\]'"),
        ({"events": ["row/*"]}, r"'row/\*'"),
        ({"events": ["x" * 65]}, "xxx"),
        ({"lifetime": timedelta(0)}, "above 0"),
        ({"lifetime": -DAY}, "above 0"),
        ({"lifetime": timedelta(days=999_999_999)}, "9999"),
        ({"name": ""}, "''"),
        ({"name": " "}, "' '"),
        ({"name": "12"}, "'12'"),
        ({"name": "a\nb"}, r"'a\\nb'"),
        ({"name": "x" * 101}, "xxx"),
    ],
)
def test_what_is_invalid_is_named_and_nothing_is_made(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        create_token(**{"name": "n", "listen": ["a"], "lifetime": DAY, **fields})
    assert not AccessToken.objects.exists()


# --- rights ---


def test_a_token_permits_what_its_patterns_name() -> None:
    token, _ = create_token(
        "n", listen=["orders"], publish=["import.*"], events=["row.*", "done"], lifetime=DAY
    )
    assert token.may_listen("orders")
    assert not token.may_listen("orders.1")
    assert not token.may_listen("import.1")
    assert token.may_publish("import.7", "row.added")
    assert token.may_publish("import.7", "done")
    assert not token.may_publish("import.7", "other")
    assert not token.may_publish("orders", "done")


def test_an_empty_list_permits_nothing() -> None:
    token, _ = create_token("n", publish=["*"], lifetime=DAY)
    assert not token.may_listen("a")
    assert not token.may_publish("a", "n")
    token, _ = create_token("n", events=["*"], lifetime=DAY)
    assert not token.may_publish("a", "n")


@pytest.mark.parametrize("broken", ["*", None, {"*": 1}, 5, [None]])
def test_rights_that_somebody_broke_permit_nothing(broken: Any) -> None:
    token = AccessToken(listen=broken, publish=broken, events=broken)
    assert not token.may_listen("a")
    assert not token.may_publish("a", "n")


# --- the header ---


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer sse_1_a", "sse_1_a"),
        ("bearer sse_1_a", "sse_1_a"),
        ("BEARER  sse_1_a ", "sse_1_a"),
        ("Bearer sse_", "sse_"),
        ("Bearer eyJ.a.b", None),
        ("Bearer SSE_1_a", None),
        ("Bearer xsse_1_a", None),
        ("Bearer sse", None),
        ("Basic dXNlcjpzc2VfMV9h, Bearer sse_1_a", "sse_1_a"),
        ("Bearer eyJ.a.b,Bearer sse_1_a", "sse_1_a"),
        ("Bearer sse_1_a,Bearer sse_1_a", "sse_1_a"),
        ("Bearer sse_1_a,Bearer sse_2_b", "sse_1_a,sse_2_b"),
        ("Token sse_1_a", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Bearer sse_1 a", None),
        ("Basic sse_1_a", None),
        ("abc", None),
        ("XBearer sse_1_a", None),
        ("", None),
    ],
)
def test_a_bearer_token_is_in_the_authorization_header(header: str, token: str | None) -> None:
    assert bearer_of(RequestFactory().get("/", HTTP_AUTHORIZATION=header)) == token


def test_a_token_in_the_query_or_a_cookie_is_none() -> None:
    factory = RequestFactory()
    factory.cookies["access_token"] = "abc"
    assert bearer_of(factory.get("/?access_token=abc&token=abc")) is None


# --- manage.py sse_token ---


def run(*arguments: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command("sse_token", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


@pytest.fixture
def text() -> str:
    return run("create", "importer", "--publish=import.*", "--event=row.*", "--days=2")[0].strip()


def test_create_prints_the_token_alone_and_the_rest_elsewhere() -> None:
    out, err = run("create", "n", "--listen=a", "--listen=b.*", "--publish=c", "--event=*")
    assert out.count("\n") == 1
    token = verify_token(out.rstrip("\n"))
    assert token is not None
    assert (token.listen, token.publish, token.events) == (["a", "b.*"], ["c"], ["*"])
    left = token.expires_at - timezone.now()
    assert timedelta(days=89) < left < timedelta(days=91)
    assert "'n'" in err
    assert out.strip() not in err


def test_list_shows_rights_and_state_and_no_secret(text: str) -> None:
    run("create", "reader", "--listen=orders")
    out, _ = run("list")
    first, second = out.splitlines()
    for said in ("'importer'", "import.*", "row.*", "expires"):
        assert said in first
    assert "'reader'" in second
    assert text.split("_", 2)[2] not in out
    assert all(token.digest not in out for token in AccessToken.objects.all())
    run("revoke", "importer")
    expire(AccessToken.objects.get(name="reader"))
    first, second = run("list")[0].splitlines()
    assert "revoked" in first
    assert "expired" in second


def test_an_empty_list_says_so_beside_stdout() -> None:
    assert run("list") == ("", "There are no tokens.\n")


@pytest.mark.parametrize("by", ["name", "pk"])
def test_revoke_ends_a_token_by_name_or_number(text: str, by: str) -> None:
    wanted = str(getattr(AccessToken.objects.get(), by))
    assert "is revoked" in run("revoke", wanted)[0]
    assert verify_token(text) is None
    assert "was already revoked" in run("revoke", wanted)[0]


def test_of_several_with_a_name_the_live_one_is_revoked_and_two_live_ones_are_a_question(
    text: str,
) -> None:
    new = run("create", "importer", "--listen=a")[0].strip()
    old_number, new_number = AccessToken.objects.order_by("pk").values_list("pk", flat=True)
    with pytest.raises(CommandError, match=f"{old_number}, {new_number}"):
        run("revoke", "importer")
    assert verify_token(text) is not None
    run("revoke", str(old_number))
    run("revoke", "importer")
    assert verify_token(new) is None
    assert "was already revoked" in run("revoke", "importer")[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("create", "n"), "--listen"),
        (("create", "n", "--publish=a"), "--event"),
        (("create", "n", "--event=a"), "--publish"),
        (("create", "n", "--listen=a", "--event=a"), "--publish"),
        (("create", "n", "--listen=two words"), "'two words'"),
        (("create", "n", "--publish=a", "--event=a/b"), "'a/b'"),
        (("create", "7", "--listen=a"), "'7'"),
        (("create", "n", "--listen=a", "--days=0"), "above 0"),
        (("create", "n", "--listen=a", "--days=nan"), "nan"),
        (("create", "n", "--listen=a", "--days=inf"), "inf"),
        (("create", "n", "--listen=a", "--days=1e7"), "9999"),
        (("create", "n", "--listen=a", "--days=soon"), "soon"),
        (("revoke", "nobody"), "'nobody'"),
        (("revoke", "9" * 30), "999"),
        (("revoke", "0"), "'0'"),
        ((), "ACTION"),
        (("destroy",), "destroy"),
    ],
)
def test_an_error_names_what_is_wrong_and_nothing_is_made(
    arguments: tuple[str, ...], named: str
) -> None:
    with pytest.raises(CommandError, match=named):
        run(*arguments)
    assert not AccessToken.objects.exists()


def test_the_help_shows_examples_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_command("sse_token", "--help")
    out = capsys.readouterr().out
    assert "\n  manage.py sse_token create importer --publish 'import.*'" in out
    assert max(map(len, out.splitlines())) <= 100
