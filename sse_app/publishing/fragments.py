"""`publish_template()`: a piece of HTML, rendered once and sent to every reader of a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.template.loader import render_to_string

from ..protocol.events import Event
from .publish import publish

#: Names of a context that belong to one visitor, and a fragment goes to many.
_OF_ONE_VISITOR: Final = ("request", "csrf_token")


def publish_template(
    group: str,
    event: str,
    template: str | Sequence[str],
    context: Mapping[str, Any] | None = None,
    *,
    durable: bool = True,
    key: str | None = None,
    using: str | None = None,
) -> Event:
    """Render a template once, publish the result as the event's data, and return the event.

    `template`: a name for the project's template engines, or several, of which the first that
    exists is taken. White space around the result is taken off.

    There is no request, so no context processor runs: everybody who reads the group gets the same
    bytes. What is one visitor's must not be in `context`; `request` and `csrf_token` are refused.

    Rendered at the call, so inside a transaction with what it sees, and published as `publish()`
    does: it leaves only if the transaction commits. Two that change the same row at once
    keep their order if each publishes in the transaction that locked or changed it.

    Blocks for the log's I/O and for what the template reads: in async code use
    `apublish_template()`. Raises what rendering raises (`TemplateDoesNotExist`, …), `ValueError`
    for a refused name in `context`, and what `publish()` raises; nothing is published then.
    """
    html = _render(template, context or {})
    return publish(group, event, html, durable=durable, key=key, using=using)


async def apublish_template(
    group: str,
    event: str,
    template: str | Sequence[str],
    context: Mapping[str, Any] | None = None,
    *,
    durable: bool = True,
    key: str | None = None,
    using: str | None = None,
) -> Event:
    """See `publish_template()`. Renders and publishes where Django's async database calls run."""
    send = sync_to_async(publish_template)
    return await send(group, event, template, context, durable=durable, key=key, using=using)


def _render(template: str | Sequence[str], context: Mapping[str, Any]) -> str:
    found = [name for name in _OF_ONE_VISITOR if name in context]
    if found:
        raise ValueError(
            f"Refused in the context of a fragment: {', '.join(found)}. It goes to everybody who "
            "reads the group, so leave out what is one visitor's."
        )
    # strip() also turns Django's SafeString into a plain str.
    return render_to_string(template, dict(context)).strip()
