"""Template tags: thin shells over the app's functions. Public: the tags, by `{% load sse %}`."""

from __future__ import annotations

import re
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
from django.template.base import FilterExpression, NodeList, Parser, Token, token_kwargs
from django.templatetags.static import static
from django.urls import NoReverseMatch, get_urlconf, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from ..access.authorization import is_public
from ..access.grants import Grant, user_key, user_of_page
from ..conf import settings
from ..eventlog.failures import LogUnavailable
from ..presence.roster import Member, members
from ..protocol.events import validate_name
from ..protocol.groups import Group, group_name, validate_group
from ..protocol.replies import user_digest
from ..publishing.page_cursor import cursor, live_part

register = template.Library()

SCRIPT: Final = "sse_app/sse.js"
LIVE_SCRIPT: Final = "sse_app/live.js"
PAGE_SCRIPT: Final = "sse_app/live-page.js"
#: Hints in the browser's console while DEBUG is on.
DEBUG_SCRIPT: Final = "sse_app/debug.js"
#: What the script uses without attributes.
_CSRF_DEFAULTS: Final = {"header": "X-Csrftoken", "cookie": "csrftoken"}
#: The script sends the id as a header.
_ID: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]*\Z", re.ASCII)


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
    script = _module(context, SCRIPT, _attributes(context))
    return script + _module(context, DEBUG_SCRIPT) if django_settings.DEBUG else script


@register.tag
def live(parser: Parser, token: Token) -> template.Node:
    """Keep a part of the page up to date: `{% live "orders" %} … {% endlive %}`.

    The part becomes the content of `<sse-live id="live-orders" …>`. After each event of its groups
    the page's script requests the page's own URL as the visitor, and morphs the part's element into
    the answer's element with that id. In a group, `{pk}` stands for the tag's option of that name:
    `{% live "order.{pk}" pk=order.pk %}`. The groups are granted as by `sse_url`. Options:

    * `id`: needed if a page has two parts of the same groups. Default: "live-" and the groups.
    * `events`: names of events, separated by spaces; others are ignored.
    * `every`: the fewest seconds between two requests; default 1.
    * `highlight`: a CSS class that changed elements have for two seconds.
    * `announce`: what screen readers say after a change; "" says the text of what changed.
    * `after`: the result of `cursor()`, for a view that reads its rows before it renders. Without
      it the tag reads the log, before its content is rendered.

    Raises `ValueError` for an invalid group or option.
    """
    _, *bits = token.split_contents()
    groups, options = [], {}
    for bit in bits:
        option = token_kwargs([bit], parser)
        options.update(option)
        if not option:
            groups.append(parser.compile_filter(bit))
    nodelist = parser.parse(["endlive"])
    parser.delete_first_token()
    return _LiveNode(groups, options, nodelist)


class _LiveNode(template.Node):
    """The node of `{% live %}`."""

    def __init__(
        self,
        groups: list[FilterExpression],
        options: dict[str, FilterExpression],
        nodelist: NodeList,
    ) -> None:
        self.groups = groups
        self.options = options
        self.nodelist = nodelist

    def render(self, context: template.Context) -> SafeString:
        groups = [group.resolve(context) for group in self.groups]
        options = {name: value.resolve(context) for name, value in self.options.items()}
        # The cursor first: an event that commits while the rows are read is then after the cursor.
        attributes = _part(context, groups, **options)
        content = self.nodelist.render(context)
        script = _module(context, LIVE_SCRIPT)
        return format_html("{}<sse-live{}>{}</sse-live>", script, attributes, content)


@register.simple_tag(takes_context=True)
def live_page(context: Any, *groups: Group, **options: Any) -> SafeString:
    """Keep the page's whole body up to date: `{% live_page "orders" %}` in the page's head.

    The options are those of `live`.
    """
    attributes = _part(context, groups, **options)
    scripts = _module(context, LIVE_SCRIPT) + _module(context, PAGE_SCRIPT)
    return format_html('<meta name="sse-live"{}>{}', attributes, scripts)


def _part(
    context: Any,
    groups: Any,
    *,
    id: str = "",
    events: str = "",
    every: float | None = None,
    highlight: str = "",
    announce: str | None = None,
    after: str | None = None,
    **values: Any,
) -> SafeString:
    """Return the attributes of a part of the page that `live.js` keeps up to date."""
    names = groups_of(groups, values)
    if not names:
        raise ValueError('A live part needs a group, for example {% live "orders" %}.')
    id = str(id or "-".join(["live", *names]))
    if not _ID.match(id):
        raise ValueError(f"Invalid id {id!r}: ASCII letters, digits, '_', '.', ':' and '-'.")
    if every is not None and not (isinstance(every, int | float) and every > 0):
        raise ValueError(f"Invalid every={every!r}: a number of seconds, for example every=2.")
    found = {
        "id": id,
        "for": " ".join(names),
        "events": " ".join(map(validate_name, events.split())),
        "every": every,
        "highlight": highlight,
    }
    shown = {name: value for name, value in found.items() if value}
    if announce is not None:
        shown["announce"] = announce
    if live_part(context.get("request")) == id:
        # The page has them. A signature would give each answer another ETag.
        return format_html_join("", ' {}="{}"', shown.items())
    shown["url"] = sse_url(context, *names, after=_position(names) if after is None else after)
    return format_html(
        "{}{}", format_html_join("", ' {}="{}"', shown.items()), _attributes(context)
    )


def _position(names: list[str]) -> str:
    try:
        return cursor(*names)
    except (LogUnavailable, SynchronousOnlyOperation):
        # The script loads the part again when its stream has opened.
        return ""


def _module(context: Any, path: str, attributes: SafeString | str = "") -> SafeString:
    """Return the element of a script, with the nonce of the page's policy."""
    nonce = context.get("csp_nonce")
    if nonce is None:
        nonce = getattr(context.get("request"), "csp_nonce", None)
    # Compared with None: a lazy nonce is false until str() makes it.
    own = "" if nonce is None else format_html(' nonce="{}"', str(nonce))
    return format_html(
        '<script type="module" src="{}"{}{}></script>', static(path), own, attributes
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
