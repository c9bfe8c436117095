"""Template tags: thin shells over the app's functions. Public: the tags, by `{% load sse %}`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from string import Formatter
from typing import Any, Final
from urllib.parse import urlencode

from django import template
from django.conf import settings as django_settings
from django.core.exceptions import SynchronousOnlyOperation
from django.http import HttpRequest
from django.http.request import HttpHeaders
from django.middleware.csrf import get_token
from django.templatetags.static import static
from django.urls import NoReverseMatch, get_urlconf, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from ..access.authorization import is_public
from ..access.grants import Grant, user_key, user_of_page
from ..conf import settings
from ..presence.roster import Member, members
from ..protocol.groups import Group, group_name, validate_group
from ..protocol.replies import user_digest

register = template.Library()

SCRIPT: Final = "sse_app/sse.js"
#: Hints in the browser's console while DEBUG is on.
DEBUG_SCRIPT: Final = "sse_app/debug.js"
_SCRIPT: Final = '<script type="module" src="{}"{}{}></script>'
#: What the script uses without attributes.
_CSRF_DEFAULTS: Final = {"header": "X-Csrftoken", "cookie": "csrftoken"}


@register.simple_tag(takes_context=True)
def sse_url(context: Any, *groups: Group, after: str = "", **values: Any) -> str:
    """Return the URL of a stream of `groups`: `{% sse_url "orders" "clock" after=position %}`.

    A group is a name, a saved model instance, or a text with braces for values, as in
    `{% sse_url "user.{}" user.pk %}` or `{% sse_url "order.{pk}" pk=order.pk %}`.

    Groups that are not public are granted to the user of the context's `request` for `GRANT_AGE`
    seconds, without asking a policy: the view decides who gets the page. `after` is the result of
    `cursor()` in the view; without it the stream begins when it opens. Raises `ValueError` for an
    invalid group, for a value that is empty or not used, or without a `request` if a group is not
    public.
    """
    names = groups_of(groups, values)
    if not names:
        raise ValueError(
            "{% sse_url %} and {% sse_stream %} need a group: {% sse_stream 'orders' %}."
        )
    query = [("group", group) for group in names if is_public([group])]
    signed = [group for group in names if not is_public([group])]
    if signed:
        request = context.get("request")
        if request is None:
            # A grant without a user would be valid for everybody.
            raise ValueError(
                f"{{% sse_url %}} grants {', '.join(signed)} to the page's user, so the context "
                "needs `request`: use render(request, …), or "
                "'django.template.context_processors.request' in TEMPLATES."
            )
        query.append(("grant", Grant.to(user_of_page(request), signed).sign()))
    if after:
        query.append(("last_event_id", after))
    return f"{_stream_path()}?{urlencode(query)}"


def _stream_path() -> str:
    try:
        return reverse("sse_app:stream")
    except NoReverseMatch as error:
        raise NoReverseMatch(
            f"The URLs of sse_app are not in {get_urlconf() or django_settings.ROOT_URLCONF}: add "
            "path('events/', include('sse_app.urls')) to its urlpatterns."
        ) from error


@register.simple_tag(takes_context=True)
def sse_stream(context: Any, *groups: Group, after: str = "", **values: Any) -> SafeString:
    """Return the element that connects to a stream: `{% sse_stream "orders" after=position %}`.

    `<sse-stream url="…"></sse-stream>` shows nothing. If the page has `{% sse_script %}`, the
    stream is open while the element is in the page. Any `EventSource` can open its `url`, too. The
    arguments and errors are those of `sse_url`.
    """
    url = sse_url(context, *groups, after=after, **values)
    return format_html('<sse-stream url="{}"{}></sse-stream>', url, _attributes(context))


@register.simple_tag
def sse_members(*group: Group, **values: Any) -> list[Member]:
    """Return the members of a group: `{% sse_members "room.1" as people %}`.

    Each has a `name`, `user` (the primary key as text), `since` and `data`. The group is given as
    in `sse_url`. See `presence.members()`.
    """
    names = groups_of(group, values)
    if len(names) != 1:
        raise ValueError(f"{{% sse_members %}} needs one group, not {len(names)}.")
    return members(names[0])


def groups_of(arguments: Iterable[Any], values: Mapping[str, Any]) -> list[str]:
    """Return the names of the groups in the arguments of a tag.

    An argument is a name, a saved model instance, or a text in which `{}` stands for the next
    argument, and `{pk}` for the value `pk`. The values are encoded by `group_name()` if they need
    it. Raises `ValueError` for an invalid name, and for a value that is empty or not used.
    """
    names, rest, unused = [], iter(arguments), set(values)
    for argument in rest:
        if argument is None or argument == "":
            raise ValueError(
                f"A tag got {argument!r} as a group: its template variable is empty or not in the "
                "context. Pass it from the view, or write a name in quotes: 'orders'. Django's "
                'filter `add` makes "" of a text and a number: write '
                '{% sse_stream "user.{}" user.pk %}.'
            )
        text = argument if isinstance(argument, str) and "{" in argument else ""
        fields = [name for _, name, *_ in Formatter().parse(text) if name is not None]
        if fields:
            unused.difference_update(fields)
            found = {name: _value(text, name, values) for name in fields if name}
            inserted = [_value(text, "", {"": next(rest, None)}) for name in fields if not name]
            names.append(group_name(text.format(*inserted, **found)))
        else:
            names.append(validate_group(argument))
    if unused:
        raise ValueError(
            f"The tag has no option {', '.join(sorted(unused))}, and no group with it in braces, "
            'as in {% sse_stream "order.{pk}" pk=order.pk %}.'
        )
    return list(dict.fromkeys(names))


def _value(text: str, name: str, values: Mapping[str, Any]) -> str:
    """Return the value of a field of `text` as text; of a model instance, its primary key."""
    value = values.get(name)
    value = getattr(value, "pk", value)
    if value is None or value == "":
        raise ValueError(
            f"The group {text!r} of the tag has no value for {{{name}}}. Is the name of a variable "
            "wrong, or the visitor anonymous?"
        )
    return str(value)


@register.simple_tag(takes_context=True)
def sse_script(context: Any) -> SafeString:
    """Return the `<script>` element of the app, for the page's head: `{% sse_script %}`.

    While DEBUG is on, a second element loads hints for the browser's console.

    The element has the nonce of the Content-Security-Policy, if the context has `csp_nonce`, set by
    Django's context processor, or its `request` has it, set by django-csp.

    On the page of a signed-in user, and with `MAY_SPEAK` on every page, this tag and `sse_stream`
    make the CSRF token for `send()`, as `{% csrf_token %}` does.
    """
    nonce = context.get("csp_nonce")
    if nonce is None:
        nonce = getattr(context.get("request"), "csp_nonce", None)
    # Compared with None: a lazy nonce is false until str() makes it.
    own = "" if nonce is None else format_html(' nonce="{}"', str(nonce))
    made = format_html(_SCRIPT, static(SCRIPT), own, _attributes(context))
    return (
        made + format_html(_SCRIPT, static(DEBUG_SCRIPT), own, "")
        if django_settings.DEBUG
        else made
    )


def _csrf_of(request: HttpRequest, user: Any) -> SafeString:
    """Make the token; return the attributes by which the script sends it, where not the default.

    A cached page of an anonymous visitor must not set a cookie, so its token is made only if
    anonymous visitors may speak.
    """
    is_readable = not (django_settings.CSRF_USE_SESSIONS or django_settings.CSRF_COOKIE_HTTPONLY)
    header = HttpHeaders.parse_header_name(django_settings.CSRF_HEADER_NAME)
    found = {
        "header": header or "X-CSRFToken",
        "cookie": django_settings.CSRF_COOKIE_NAME if is_readable else "",
    }
    if user is not None or settings().MAY_SPEAK is not None:
        token = get_token(request)
        if not is_readable:
            found["token"] = token
    shown = {name: value for name, value in found.items() if _CSRF_DEFAULTS.get(name) != value}
    return format_html_join("", ' data-csrf-{}="{}"', shown.items())


def _attributes(context: Any) -> SafeString | str:
    """Return a digest of the user, as pages of one user share a connection, and `_csrf_of()`."""
    request = context.get("request")
    if request is None:
        return ""
    try:
        user = user_of_page(request)
    except SynchronousOnlyOperation:
        # An async view has not loaded the user. The server sends the digest when a stream opens.
        return ""
    digest = user_digest("" if user is None else user_key(user))
    return format_html(' data-sse="{}"{}', digest, _csrf_of(request, user))
