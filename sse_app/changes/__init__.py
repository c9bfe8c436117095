"""Model changes as events: `@publish_changes` on a model.

A change and its event are one transaction. The wing knows nothing of streams or of access.

Public: the names of this package. Private: its modules.
"""

from .bulk import ChangesManager, ChangesQuerySet
from .decorator import publish_changes
from .pending import suppress_changes

__all__ = [
    "ChangesManager",
    "ChangesQuerySet",
    "publish_changes",
    "suppress_changes",
]
