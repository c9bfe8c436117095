"""`publish_template()`: a fragment of HTML, rendered once and sent to all readers of a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from django.template.loader import render_to_string

from ..protocol.events import Event
from ..protocol.groups import Group
from ..runtime.callables import blocking, in_callers_thread
from .publish import publish

#: Names that a context must not have: they belong to one visitor, and a fragment goes to many.
_OF_ONE_VISITOR: Final = ("request", "csrf_token")


@blocking
def publish_template(
    group: Group,
    event: str,
    template: str | Sequence[str],
    context: Mapping[str, Any] | None = None,
    *,
    durable: bool = True,
    key: str | None = None,
    using: str | None = None,
    exclude: object = None,
) -> Event:
    """Render a template once, publish the result as the event's data, and return the event.

    `template`: the name of a template, or several names, of which the first existing one is used.
    White space around the result is removed.

    There is no request, so no context processor runs: all readers of the group get the same bytes.
    `context` must not have data of one visitor; `request` and `csrf_token` are refused.

    The template is rendered immediately, so it sees the changes of the surrounding transaction.
    The event is published as by `publish()`: it leaves only if the transaction commits. If two
    requests change the same row at the same time, publish in the transaction that locked or
    changed the row: the events then have the order of the changes.

    Blocks for the log's I/O and for the template's queries: in async code use
    `apublish_template()`. Raises the errors of rendering (`TemplateDoesNotExist`, …), `ValueError`
    for a refused name in `context`, and the errors of `publish()`; nothing is published then.
    """
    html = _render(template, context or {})
    return publish(group, event, html, durable=durable, key=key, using=using, exclude=exclude)


async def apublish_template(
    group: Group,
    event: str,
    template: str | Sequence[str],
    context: Mapping[str, Any] | None = None,
    *,
    durable: bool = True,
    key: str | None = None,
    using: str | None = None,
    exclude: object = None,
) -> Event:
    """See `publish_template()`. Runs in the thread of Django's async database calls."""
    return await in_callers_thread(
        partial(publish_template, durable=durable, key=key, using=using, exclude=exclude),
        *(group, event, template, context),
    )


def _render(template: str | Sequence[str], context: Mapping[str, Any]) -> str:
    found = [name for name in _OF_ONE_VISITOR if name in context]
    if found:
        raise ValueError(
            f"Refused in the context of a fragment: {', '.join(found)}. All readers of the group "
            "get the same fragment, so leave out data of one visitor."
        )
    # strip() also turns Django's SafeString into a plain str.
    return render_to_string(template, dict(context)).strip()
