"""Template tags: thin shells over the app's functions."""

from __future__ import annotations

from urllib.parse import urlencode

from django import template
from django.urls import reverse

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
