"""`debug.js`: the hints in the browser's console while DEBUG is on."""

from __future__ import annotations

from collections.abc import Callable

from django.template import Context, Template
from django.test import override_settings

from ..support.servers import Daphne, eventually
from ..support.tabs import Tabs, open_tabs

__all__ = ["open_tabs"]


def test_the_console_names_unheard_events_and_refused_groups(
    make_daphne: Callable[..., Daphne], open_tabs: Callable[[str], Tabs]
) -> None:
    site = make_daphne()
    tabs = open_tabs(site.url)
    tab = tabs.open("group=orders")  # The page listens to "n".
    said: list[str] = []
    tab.page.on("console", lambda message: said.append(message.text))

    def has(*words: str) -> Callable[[], bool]:
        # A look at the page also lets the driver hand over its messages.
        return lambda: (
            bool(tab.page.evaluate("1"))
            and any(all(word in text for word in words) for text in said)
        )

    for data in ("1", "2"):
        site.publish("orders", "order.updated", data)
    site.publish("orders", "n", "3")
    eventually(lambda: tab.heard == [3])
    eventually(has('"order.updated" arrived in "orders"', 'listens to "n".', "Add stream.on("))
    assert len([text for text in said if "order.updated" in text]) == 1
    assert not [text for text in said if '"n" arrived' in text]
    tab.page.evaluate(
        "customElements.get('sse-stream').connect('/events/?group=secret', {share: false})"
    )
    eventually(has("/events/ is refused.", "secret", "SSE_APP['PUBLIC_GROUPS']"))
    assert tab.errors == []


def test_the_tag_loads_the_hints_only_while_debug_is_on() -> None:
    tag = Template("{% load sse %}{% sse_script %}")
    assert "debug.js" not in tag.render(Context())
    with override_settings(DEBUG=True):
        made = tag.render(Context({"csp_nonce": "n0"}))
    assert made.index("sse.js") < made.index("debug.js")
    assert made.count(' nonce="n0"') == 2
