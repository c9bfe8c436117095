"""Rows of broadcasts: the composed broadcasts, and to how many streams each was delivered."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import ProhibitNullCharactersValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..conf import settings as sse_settings
from ..protocol.events import DEFAULT_NAME, Event, validate_published
from ..protocol.groups import validate_group
from . import composition

MOST_GROUPS: Final = 20
MOST_AHEAD: Final = timedelta(days=366)


def group_validator(value: str) -> None:
    """Raise `ValidationError` unless `value` is a valid name of a group."""
    try:
        validate_group(value)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def valid_groups(value: object) -> list[str]:
    """Return `value` without repeats; raises `ValidationError` that names an invalid group."""
    if not isinstance(value, list) or not value:
        raise ValidationError(_("Name at least one group."))
    groups = list(dict.fromkeys(map(str, value)))
    if len(groups) > MOST_GROUPS:
        raise ValidationError(
            _("These are %(given)d groups; at most %(most)d are possible."),
            params={"given": len(groups), "most": MOST_GROUPS},
        )
    for group in groups:
        group_validator(group)
    return groups


def name_validator(value: str) -> None:
    """Raise `ValidationError` unless `value` is a valid name of a published event."""
    try:
        validate_published(value)
    except ValueError as error:
        raise ValidationError(str(error)) from error


class Broadcast(models.Model):
    """A broadcast composed in the admin: to be sent now or at a time, and afterwards its record.

    It is sent once: the process that changes `scheduled` to `sent` publishes it, see
    `sse_app.broadcasts.sending`.
    """

    class State(models.TextChoices):
        """Scheduled, or how that ended."""

        SCHEDULED = "scheduled", _("scheduled")
        SENT = "sent", _("sent")
        CANCELLED = "cancelled", _("cancelled")
        FAILED = "failed", _("failed")

    class Kind(models.TextChoices):
        """The format of the body."""

        JSON = composition.JSON, _("JSON")
        TEXT = composition.TEXT, _("text")

    groups = models.JSONField(_("groups"), default=list)
    event = models.CharField(
        _("event"),
        max_length=64,
        default=DEFAULT_NAME,
        validators=[name_validator],
        help_text=_("The event's name, for example order.updated."),
    )
    kind = models.CharField(_("kind"), max_length=8, choices=Kind, default=Kind.JSON)
    body = models.TextField(_("data"), blank=True, validators=[ProhibitNullCharactersValidator()])
    send_at = models.DateTimeField(_("send at"), null=True, blank=True)
    state = models.CharField(
        _("state"), max_length=9, choices=State, default=State.SCHEDULED, editable=False
    )
    sent_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        editable=False,
        verbose_name=_("sent by"),
        related_name="+",
        db_constraint=False,  # As in `access.models`.
    )
    created_at = models.DateTimeField(_("composed at"), default=timezone.now, editable=False)
    sent_at = models.DateTimeField(_("sent at"), null=True, editable=False)
    error = models.TextField(_("error"), blank=True, editable=False)
    #: `[group, epoch, offset]` of each event, once the events have offsets.
    places = models.JSONField(default=list, editable=False)
    #: The token of the page that confirmed it, so that a second click does not send it again.
    once = models.CharField(max_length=64, null=True, unique=True, editable=False)  # noqa: DJ001

    class Meta:
        verbose_name = _("broadcast")
        verbose_name_plural = _("broadcasts")
        ordering = ["-created_at", "-pk"]
        default_permissions = ("view",)
        permissions = [("send_broadcast", _("Can send broadcasts"))]
        indexes = [
            models.Index(
                fields=["send_at"], name="sse_app_due", condition=models.Q(state="scheduled")
            ),
            models.Index(fields=["sent_at"], name="sse_app_sent"),
        ]

    def __str__(self) -> str:
        return f"{self.event} → {', '.join(map(str, self.groups))}"

    def text(self) -> str:
        """Return the data of its events; raises `ValueError` as `compose()` does."""
        return composition.compose(self.kind, self.body)

    def events(self) -> list[Event]:
        """Return its events, one per group; raises `ValueError` for data that can't be sent."""
        text, most = self.text(), sse_settings().MAX_EVENT_BYTES
        return [Event.of(group, self.event, text).limited(most) for group in self.groups]

    def clean(self) -> None:
        """Raise `ValidationError` for invalid groups or data, and for a time in the past."""
        wrong: dict[str, Any] = {}
        try:
            self.groups = valid_groups(self.groups)
        except ValidationError as error:
            wrong["groups"] = error
        if self._state.adding and self.send_at is not None:
            if self.send_at <= timezone.now():
                wrong["send_at"] = _("This time has passed.")
            elif self.send_at > timezone.now() + MOST_AHEAD:
                wrong["send_at"] = _("This is more than a year away.")
        if self.kind in self.Kind.values:  # Otherwise the field `kind` has the error.
            try:
                # The longest names: the fields of the real names have their own errors.
                event = Event.of("x" * 80, "x" * 64, self.text())
                event.limited(sse_settings().MAX_EVENT_BYTES)
            except ValueError as error:
                wrong["body"] = str(error)
        if wrong:
            raise ValidationError(wrong)


class BroadcastCount(models.Model):
    """To how many streams one server process delivered the events of a broadcast."""

    broadcast = models.ForeignKey(Broadcast, on_delete=models.CASCADE, related_name="counts")
    process = models.CharField(max_length=64)
    streams = models.PositiveBigIntegerField()
    counted_at = models.DateTimeField()

    class Meta:
        verbose_name = _("broadcast count")
        verbose_name_plural = _("broadcast counts")
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["broadcast", "process"], name="sse_app_counted_once")
        ]

    def __str__(self) -> str:
        return f"{self.broadcast_id} {self.process} {self.streams}"
