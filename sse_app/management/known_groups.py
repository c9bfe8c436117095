"""`never_published()`: a hint for a group name that is probably misspelled."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from ..eventlog import event_log
from ..protocol.groups import own_name

#: How many names of groups are compared.
COMPARED: Final = 1000


def never_published(groups: Sequence[str], when: str = "yet") -> str:
    """Return the notice that no event was published to `groups`, with the most similar names."""
    known = [own_name(group) for group in event_log().known("", COMPARED)]
    others = [name for name in known if name not in groups]
    text = f"No event was published to {', '.join(map(repr, groups))} {when}."
    similar = [match for group in groups for match in get_close_matches(group, others, 1)]
    return f"{text} Did you mean {', '.join(map(repr, similar))}?" if similar else text
