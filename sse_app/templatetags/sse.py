"""Template tags: thin shells over the app's functions."""

from __future__ import annotations

from urllib.parse import urlencode

from django import template
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from ..groups import validate_group

register = template.Library()


@register.simple_tag
def sse_url(*groups: str, after: str = "") -> str:
    """Return the URL of a stream of `groups`: `{% sse_url "orders" "clock" after=position %}`.

    `after` is what `cursor()` returned in the view; without it the stream begins when it opens.
    """
    query = [("group", validate_group(group)) for group in groups]
    if after:
        query.append(("last_event_id", after))
    return f"{reverse('sse_app:stream')}?{urlencode(query)}"


@register.simple_tag
def sse_stream(*groups: str, after: str = "") -> SafeString:
    """Return the element that carries a stream's URL: `{% sse_stream "orders" after=position %}`.

    `<sse-stream url="…"></sse-stream>` shows nothing; the page's script opens the stream with an
    `EventSource` on its `url`. The arguments are those of `sse_url`.
    """
    return format_html('<sse-stream url="{}"></sse-stream>', sse_url(*groups, after=after))
