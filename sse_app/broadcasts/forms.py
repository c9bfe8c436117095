"""The form for composing a broadcast."""

from __future__ import annotations

import re
from typing import Any, Final

from django import forms
from django.contrib.admin.widgets import AdminSplitDateTime, AdminTextInputWidget
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from .models import MOST_GROUPS, Broadcast, valid_groups

_BETWEEN: Final = re.compile(r"[\s,;]+")


class GroupsField(forms.CharField):
    """Names of groups in one line, with spaces or commas between them."""

    def prepare_value(self, value: Any) -> Any:
        """Return a list as one line."""
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    def clean(self, value: Any) -> Any:
        """Return the list; raises `ValidationError` that names an invalid name."""
        return valid_groups([name for name in _BETWEEN.split(super().clean(value)) if name])


class BroadcastForm(forms.ModelForm):
    """The data, groups and time of a broadcast. The view sets `sent_by` on the instance."""

    groups = GroupsField(
        label=_("Groups"),
        max_length=MOST_GROUPS * 82,
        widget=AdminTextInputWidget(attrs={"autocomplete": "off", "class": "vTextField"}),
        help_text=_("One or more, with commas between them. Their subscribers receive it."),
    )
    body = forms.CharField(
        label=_("Data"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"class": "vLargeTextField", "rows": 8, "spellcheck": "false"}),
    )
    send_at = forms.SplitDateTimeField(
        label=_("Send at"),
        required=False,
        widget=AdminSplitDateTime(),
        help_text=_("Leave it empty to send now."),
    )

    class Meta:
        model = Broadcast
        fields = ["groups", "event", "kind", "body", "send_at"]
        widgets = {
            "event": AdminTextInputWidget(attrs={"autocomplete": "off"}),
            "kind": forms.RadioSelect,
        }

    class Media:
        css = {"all": ["sse_app/broadcast.css"]}
        js = ["sse_app/broadcast.js"]

    def add_error(self, field: str | None, error: Any) -> None:
        """Add an error, but not the model's errors of fields that already have one.

        The model has no value of a field with an error. Without a valid kind it can't check `body`.
        """
        if field is None and hasattr(error, "error_dict"):
            reported = {*self.errors, *(["body"] if "kind" in self.errors else [])}
            rest = {name: one for name, one in error.error_dict.items() if name not in reported}
            if not rest:
                return
            error = ValidationError(rest)
        super().add_error(field, error)
