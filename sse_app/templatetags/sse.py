"""Template tags: thin shells over the app's functions."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from django import template
from django.core.exceptions import SynchronousOnlyOperation
from django.templatetags.static import static
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from ..access.authorization import is_public
from ..access.grants import Grant, reader_of
from ..presence.roster import Member, members
from ..protocol.groups import validate_group
from ..protocol.replies import user_digest

register = template.Library()

SCRIPT: Final = "sse_app/sse.js"


@register.simple_tag(takes_context=True)
def sse_url(context: Any, *groups: str, after: str = "") -> str:
    """Return the URL of a stream of `groups`: `{% sse_url "orders" "clock" after=position %}`.

    Groups that are not public are signed for the user of the context's `request` and expire after
    `GRANT_AGE`: whoever gets this page may listen to them. `after` is what `cursor()` returned in
    the view; without it the stream begins when it opens.
    """
    public = [validate_group(group) for group in groups if is_public([group])]
    query = [("group", group) for group in public]
    signed = [group for group in groups if group not in public]
    if signed:
        request = context.get("request")
        if request is None:
            # Without a user the grant would be everybody's.
            raise ValueError(
                f"{{% sse_url %}} signs {', '.join(signed)} for the page's user, so it needs "
                "`request` in the context: render(request, …), or "
                "'django.template.context_processors.request' in TEMPLATES."
            )
        query.append(("grant", Grant.to(reader_of(request), signed).sign()))
    if after:
        query.append(("last_event_id", after))
    return f"{reverse('sse_app:stream')}?{urlencode(query)}"


@register.simple_tag(takes_context=True)
def sse_stream(context: Any, *groups: str, after: str = "") -> SafeString:
    """Return the element that carries a stream's URL: `{% sse_stream "orders" after=position %}`.

    `<sse-stream url="…"></sse-stream>` shows nothing. With `{% sse_script %}` in the page it is
    connected while it is there; any `EventSource` can open its `url` too. The arguments are those
    of `sse_url`.
    """
    url = sse_url(context, *groups, after=after)
    return format_html('<sse-stream url="{}"{}></sse-stream>', url, _user_of(context))


@register.simple_tag
def sse_members(group: str) -> list[Member]:
    """Return who is in `group`, see `presence.members()`: `{% sse_members "room.1" as people %}`.

    Each has a `name`, `user` (the primary key as text) and `since`.
    """
    return members(group)


@register.simple_tag(takes_context=True)
def sse_script(context: Any) -> SafeString:
    """Return the element that loads the page's script, for the page's head: `{% sse_script %}`.

    It has the nonce that a Content-Security-Policy names if the context has one as `csp_nonce`, as
    of Django's context processor, or its `request` does, as of django-csp.
    """
    nonce = context.get("csp_nonce")
    if nonce is None:
        nonce = getattr(context.get("request"), "csp_nonce", None)
    # Not by its truth: one that nobody has asked for yet is false, and is made by str().
    own = "" if nonce is None else format_html(' nonce="{}"', str(nonce))
    src, user = static(SCRIPT), _user_of(context)
    return format_html('<script type="module" src="{}"{}{}></script>', src, own, user)


def _user_of(context: Any) -> SafeString | str:
    """Return the attribute that says for whom the page is rendered: pages of one user share."""
    request = context.get("request")
    if request is None:
        return ""
    try:
        user = reader_of(request)
    except SynchronousOnlyOperation:
        # In an async view that has not loaded the user. The server says it when a stream opens.
        return ""
    return format_html(' data-sse="{}"', user_digest("" if user is None else str(user.pk)))
