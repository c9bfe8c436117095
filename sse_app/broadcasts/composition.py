"""The data of a broadcast's events, made from typed text: JSON or plain text."""

from __future__ import annotations

import json
from typing import Final

from django.utils.translation import gettext as _

from ..protocol.events import to_text

JSON: Final = "json"
TEXT: Final = "text"


def compose(kind: str, body: str) -> str:
    """Return the data of the events: `body` as its `kind`, with `\\n` for line ends.

    JSON is encoded again, without spaces; an empty body is an empty object. The data is at most a
    small multiple of `body`, so that a sender of broadcasts can't exhaust the server. Raises
    `ValueError` for invalid JSON, for a lone surrogate, and for any other kind, such as the
    templates of earlier releases.
    """
    if kind == JSON:
        return _json(body)
    if kind == TEXT:
        return to_text(body)
    raise ValueError(
        _(
            "Broadcasts of the kind “%s” can't be sent any more. Compose it again as JSON or as "
            "text, or publish a template in code, with publish_template()."
        )
        % kind
    )


def _json(body: str) -> str:
    try:
        data = json.loads(body) if body.strip() else {}
    except json.JSONDecodeError as error:
        raise ValueError(
            _("Invalid JSON: %(what)s in line %(line)d, column %(column)d.")
            % {"what": error.msg, "line": error.lineno, "column": error.colno}
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(_("This JSON can't be read: %s") % error) from error
    # publish() would send a str unchanged, which is the kind text; here it stays JSON.
    return to_text(json.dumps(data, ensure_ascii=False)) if isinstance(data, str) else to_text(data)
