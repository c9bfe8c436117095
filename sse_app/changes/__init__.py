"""Model changes as events: `@publish_changes` on a model."""

from .bulk import ChangesManager, ChangesQuerySet
from .decorator import publish_changes
from .publication import suppress_changes

__all__ = [
    "ChangesManager",
    "ChangesQuerySet",
    "publish_changes",
    "suppress_changes",
]
