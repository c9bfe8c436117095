"""`sse_publish` and `sse_listen`: what a person at a shell publishes and hears."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from sse_app.eventlog import event_log
from sse_app.protocol.events import Event
from sse_app.testing import capture_events

from ..support.patience import PATIENCE
from ..support.servers import ROOT, Daphne
from ..support.valkeys import free_port


def publish(*arguments: str, stdin: str = "", **options: Any) -> tuple[str, list[Event]]:
    out = StringIO()
    with pytest.MonkeyPatch.context() as patch, capture_events() as events:
        patch.setattr(sys, "stdin", StringIO(stdin))
        call_command("sse_publish", *arguments, stdout=out, **options)
    return out.getvalue(), list(events)


@pytest.mark.django_db(transaction=True)
def test_data_goes_out_as_it_is_and_is_said_to_be_where() -> None:
    said, (event,) = publish("orders", "order.updated", '{"id":  5}')
    assert (event.group, event.name, event.data) == ("orders", "order.updated", '{"id":  5}')
    head = event_log().heads(["orders"])["orders"]
    assert said == (
        f"Published order.updated to orders at offset {head.offset} of epoch {head.epoch}.\n"
    )


@pytest.mark.django_db(transaction=True)
def test_json_is_refused_where_it_is_none_and_sent_compact() -> None:
    _, (event,) = publish("orders", "n", '{"id":  5}', json=True)
    assert event.data == '{"id":5}'
    with pytest.raises(CommandError, match=r"'\{id: 5\}' is invalid JSON"):
        publish("orders", "n", "{id: 5}", json=True)


@pytest.mark.django_db(transaction=True)
def test_without_data_stdin_is_one_event_or_one_for_each_line() -> None:
    _, (event,) = publish("orders", "n", stdin="one\ntwo\n")
    assert event.data == "one\ntwo"
    said, events = publish("orders", "n", stdin="one\ntwo\n", lines=True)
    assert [event.data for event in events] == ["one", "two"]
    assert said == "Published 2 event(s) to orders.\n"


@pytest.mark.django_db(transaction=True)
def test_what_is_not_durable_has_no_place_and_may_have_a_key() -> None:
    said, (event,) = publish("orders", "n", "1", not_durable=True, key="k")
    assert (event.durable, event.key, event.offset) == (False, "k", None)
    assert said == "Published n to orders.\n"
    assert event_log().heads(["orders"])["orders"].offset == 0


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("no group", "n", "1"), {}, "'no group'"),
        (("orders", "sse.open", "1"), {}, "'sse.open'"),
        (("orders", "n", "1"), {"key": "k"}, "--not-durable"),
        (("orders", "n", "1"), {"lines": True}, "leave out DATA"),
        (("orders", "n", "x" * 70_000), {}, "MAX_EVENT_BYTES"),
    ],
)
def test_what_can_not_be_published_is_an_error_that_names_it(
    arguments: tuple[str, ...], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(CommandError, match=said):
        publish(*arguments, **options)


@contextmanager
def listening(daphne: Daphne, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "manage.py", "sse_listen", *arguments],
        cwd=ROOT,
        env=daphne.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.slow
def test_it_shows_what_the_log_has_and_ends_after_so_many(daphne: Daphne) -> None:
    for n in range(4):
        daphne.publish("orders", "n", str(n))
    daphne.publish("chat.a", "message", json.dumps({"text": "ä"}))
    assert daphne.manage("sse_listen", "orders", "--from", "earliest", "--count", "2") == (
        "orders n 0\norders n 1\n"
    )
    assert daphne.manage("sse_listen", "orders", "--from", "-1", "--count", "1") == "orders n 3\n"
    (line,) = daphne.manage(
        "sse_listen", "orders", "chat.a", "--from=-9", "--event", "message", "--json", "--count=1"
    ).splitlines()
    event = json.loads(line)
    assert (event["group"], event["event"], event["data"]) == ("chat.a", "message", {"text": "ä"})
    # And its id is where to go on from, here and in a browser.
    daphne.publish("orders", "n", "4")
    after = daphne.manage("sse_listen", "orders", "--after", event["id"], "--count", "1")
    assert after == "orders n 4\n"


def test_over_http_it_hears_what_a_page_gets_and_comes_back_to_where_it_was(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(RETRY=[0.1, 0.2])
    with listening(daphne, "--url", f"{daphne.url}/events/?group=orders", "--json") as listener:
        assert listener.stdout
        opened = json.loads(listener.stdout.readline())
        assert opened["event"] == "sse.open"
        daphne.publish("orders", "n", "before")
        assert json.loads(listener.stdout.readline())["data"] == "before"
        daphne._kill()
        daphne.shell("from sse_app import publish\npublish('orders', 'n', 'meanwhile')")
        daphne.start()
        opened = json.loads(listener.stdout.readline())["data"]
        assert (opened["recovered"], opened["missed"], opened["groups"]) == (True, 1, ["orders"])
        daphne.publish("orders", "n", "after")
        told = [json.loads(listener.stdout.readline())["data"] for _ in range(2)]
    assert told == ["meanwhile", "after"]


@pytest.mark.slow
def test_a_token_opens_what_is_closed_and_a_refusal_ends_it(daphne: Daphne) -> None:
    url = f"{daphne.url}/events/?group=secret"
    daphne.publish("secret", "n", "1")
    refused = daphne.try_manage("sse_listen", "--url", url)
    assert refused.returncode == 1
    assert "The server answered 403" in refused.stderr
    token = daphne.manage("sse_token", "create", "t", "--listen", "secret").strip()
    heard = daphne.manage(
        "sse_listen", "--url", url, "--token", token, "--from", "earliest", "--count", "2"
    )
    assert heard.splitlines()[1] == "n 1"
    page = daphne.try_manage("sse_listen", "--url", f"{daphne.url}/")
    assert "text/html; charset=utf-8, not an event stream" in page.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give either groups, or --url"),
        (["orders", "--url", "http://127.0.0.1/"], "Give either groups, or --url"),
        (["no group"], "'no group'"),
        (["orders", "--from", "now"], "'now'"),
        (["orders", "--count", "0"], "--count is 0"),
        (["orders", "--token", "x"], "--token is for --url"),
        (["--url", "example.org"], "'example.org'"),
        (["orders", "--event", "no name"], "'no name'"),
    ],
)
def test_what_can_not_be_listened_to_is_an_error_that_names_it(
    arguments: list[str], said: str
) -> None:
    with pytest.raises(CommandError, match=said):
        call_command("sse_listen", *arguments)


@pytest.mark.slow
def test_a_lost_continuity_is_said_and_what_follows_is_shown(daphne: Daphne) -> None:
    daphne.publish("orders", "n", "1")
    with listening(daphne, "orders", "--after", "unreadable") as listener:
        assert listener.stderr
        assert listener.stdout
        assert listener.stderr.readline() == "Listening to orders; Ctrl-C ends.\n"
        assert "can't be continued: unknown" in listener.stderr.readline()
        daphne.publish("orders", "n", "2")
        assert listener.stdout.readline() == "orders n 2\n"


@pytest.mark.slow
def test_the_end_of_a_listener_is_quiet(daphne: Daphne) -> None:
    with listening(daphne, "orders", "--from", "earliest") as listener:
        daphne.publish("orders", "n", "1")
        assert listener.stdout
        assert listener.stdout.readline() == "orders n 1\n"
        listener.send_signal(2)
        _, errors = listener.communicate(timeout=PATIENCE)
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_listener_whose_reader_ends_is_quiet(daphne: Daphne) -> None:
    with listening(daphne, "orders", "ordes") as listener:
        assert listener.stdout
        assert listener.stderr
        assert listener.stderr.readline() == "Listening to orders, ordes; Ctrl-C ends.\n"
        said = "No event was published to 'orders', 'ordes' yet.\n"
        assert listener.stderr.readline() == said
        daphne.publish("orders", "n", "1")
        assert listener.stdout.readline() == "orders n 1\n"
        listener.stdout.close()  # As `head -1` does.
        daphne.publish("orders", "n", "2")
        assert listener.wait(PATIENCE) == 0
        assert listener.stderr.read() == ""
        listener.stdout = None


class Terminal(StringIO):
    """A person who types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.django_db
def test_a_new_epoch_for_all_groups_is_asked_for_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event_log().append([Event.of("orders", "n", "x")])
    before = event_log().heads(["orders"])
    monkeypatch.setattr(sys, "stdin", Terminal("\n"))
    with pytest.raises(CommandError, match=r"Nothing was changed\. Name groups"):
        call_command("sse_new_epoch")
    assert event_log().heads(["orders"]) == before
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    call_command("sse_new_epoch")
    assert event_log().heads(["orders"]) != before


@pytest.mark.slow
def test_a_server_that_is_away_is_tried_again(daphne: Daphne) -> None:
    url = f"http://127.0.0.1:{free_port()}/events/?group=orders"
    with listening(daphne, "--url", url) as listener:
        assert listener.stderr
        assert "reconnecting in 3 s" in listener.stderr.readline()
