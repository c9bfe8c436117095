"""What somebody composed, as it goes out: JSON, text, or a template rendered at that moment.

Whoever may send broadcasts may not thereby read the project or exhaust the server. So a template
has an engine of its own, without the project's templates, tags, filters and context processors,
and with those of Django's that neither look elsewhere nor multiply: nothing that assigns, repeats
or pads, so what comes out is at most a small multiple of what was typed.
"""

from __future__ import annotations

import json
from typing import Final

from django.conf import settings
from django.template import Context, Engine, Library, Template, TemplateSyntaxError
from django.template.base import Node, Parser, Token
from django.template.defaultfilters import register as _filters
from django.template.defaulttags import NowNode
from django.template.defaulttags import register as _tags
from django.utils import timezone, translation
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext as _

from .events import to_text

JSON: Final = "json"
TEXT: Final = "text"
TEMPLATE: Final = "template"

TAGS: Final = ("autoescape", "comment", "filter", "if", "spaceless", "templatetag", "verbatim")
FILTERS: Final = (
    *("capfirst", "cut", "date", "default", "default_if_none", "escape", "first", "last", "length"),
    *("linebreaksbr", "lower", "pluralize", "slice", "slugify", "time", "timesince", "timeuntil"),
    *("title", "truncatechars", "truncatewords", "upper", "wordcount", "yesno"),
)

register = Library()
for _name in TAGS:
    register.tags[_name] = _tags.tags[_name]
for _name in FILTERS:
    register.filters[_name] = _filters.filters[_name]


@register.tag("now")
def now(parser: Parser, token: Token) -> Node:
    """Show the time, as Django's own `{% now %}` but without its `as`: nothing assigns here."""
    bits = token.split_contents()
    if len(bits) != 2:
        raise TemplateSyntaxError("'now' takes one argument, a format in quotes.")
    return NowNode(bits[1][1:-1])


def _make_engine() -> Engine:
    engine = Engine(dirs=[], app_dirs=False, loaders=[], libraries={}, debug=False)
    engine.builtins, engine.template_builtins = [__name__], [register]
    return engine


# Lazily, since an engine looks at the settings.
_engine = SimpleLazyObject(_make_engine)


def compose(kind: str, body: str, *, sender: str = "") -> str:
    """Return the data of the events: `body` by its `kind`, with `\\n` for line ends.

    JSON is written anew, without spaces; nothing typed is an empty object. A template knows `now`
    and `sender`, in the project's own language and time zone whoever asks, and escapes what it
    inserts. Raises `ValueError` that says what is wrong with it.
    """
    if kind == JSON:
        return _json(body)
    if kind == TEMPLATE:
        return to_text(_rendered(body, {"now": timezone.now(), "sender": sender}))
    return to_text(body)


def _json(body: str) -> str:
    try:
        data = json.loads(body) if body.strip() else {}
    except json.JSONDecodeError as error:
        raise ValueError(
            _("This is no JSON: %(what)s in line %(line)d, column %(column)d.")
            % {"what": error.msg, "line": error.lineno, "column": error.colno}
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(_("This JSON can't be read: %s") % error) from error
    # A string stays JSON here, though publish() would send it as it is: that is the kind text.
    return to_text(json.dumps(data, ensure_ascii=False)) if isinstance(data, str) else to_text(data)


def _rendered(body: str, known: dict[str, object]) -> str:
    language = translation.override(settings.LANGUAGE_CODE)
    try:
        with language, timezone.override(timezone.get_default_timezone()):
            rendered = Template(body, engine=_engine).render(Context(known))  # type: ignore[arg-type]
            # A str and no SafeString: what shows it as text has to escape it.
            return str.__str__(rendered)
    except TemplateSyntaxError as error:
        raise ValueError(_("This is no template: %s") % error) from error
    except RecursionError as error:
        raise ValueError(_("The template is nested too deep.")) from error
    except Exception as error:  # Filters raise what they like for what they are not made for.
        raise ValueError(
            _("The template can't be rendered: %(kind)s: %(what)s")
            % {"kind": type(error).__name__, "what": error}
        ) from error
