"""What the history of broadcasts is filtered by, beside its own columns."""

from __future__ import annotations

from typing import Any, Final

from django.contrib import admin
from django.db.models import QuerySet, TextField
from django.db.models.functions import Cast
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from .models import Broadcast

#: From how many of the latest broadcasts the groups are taken.
LATEST: Final = 200


class GroupFilter(admin.SimpleListFilter):
    """Those that went to one group."""

    title = _("group")
    parameter_name = "group"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the groups of the latest broadcasts."""
        latest = Broadcast.objects.values_list("groups", flat=True)[:LATEST]
        return [(name, name) for name in sorted({name for names in latest for name in names})]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[Broadcast]
    ) -> QuerySet[Broadcast] | None:
        """Look for the name in the list as text: SQLite can't look into JSON."""
        if not self.value():
            return None
        listed = queryset.annotate(listed=Cast("groups", TextField()))
        return listed.filter(listed__contains=f'"{self.value()}"')
