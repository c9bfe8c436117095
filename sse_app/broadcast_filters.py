"""What the history of broadcasts is filtered by, beside its own columns."""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from django.contrib import admin
from django.db.models import QuerySet, TextField
from django.db.models.functions import Cast
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from .models import Broadcast

#: From how many of the latest broadcasts the groups are taken.
LATEST: Final = 200
#: How many groups the list offers, those of the newest broadcasts: each may have named twenty.
MOST_NAMES: Final = 100


class GroupFilter(admin.SimpleListFilter):
    """Those that went to one group."""

    title = _("group")
    parameter_name = "group"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the groups of the latest broadcasts."""
        latest = Broadcast.objects.values_list("groups", flat=True)[:LATEST]
        named = dict.fromkeys(name for names in latest for name in names)
        return [(name, name) for name in sorted(islice(named, MOST_NAMES))]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[Broadcast]
    ) -> QuerySet[Broadcast] | None:
        """Look for the name in the list as text: SQLite can't look into JSON."""
        if not self.value():
            return None
        listed = queryset.annotate(listed=Cast("groups", TextField()))
        return listed.filter(listed__contains=f'"{self.value()}"')
