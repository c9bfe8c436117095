"""The form on which a broadcast is composed."""

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
        """Show a list as it is typed."""
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    def clean(self, value: Any) -> Any:
        """Return the list; raises `ValidationError` that says which name is none."""
        return valid_groups([name for name in _BETWEEN.split(super().clean(value)) if name])


class BroadcastForm(forms.ModelForm):
    """What to send, to whom and when. The instance's `sent_by` is who sends it."""

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
        """Leave out what the model says of fields that it was not given: theirs is said before."""
        if field is None and hasattr(error, "error_dict"):
            told = {*self.errors, *(["body"] if "kind" in self.errors else [])}
            rest = {name: said for name, said in error.error_dict.items() if name not in told}
            if not rest:
                return
            error = ValidationError(rest)
        super().add_error(field, error)
