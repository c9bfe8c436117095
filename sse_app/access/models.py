"""Rows that grant or end access: tokens, tickets and revocations."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..protocol.groups import matches


def _permits(patterns: object, name: str) -> bool:
    # The characters of a string would be patterns too, and one of them may be "*".
    return isinstance(patterns, list) and matches(name, map(str, patterns))


class AccessToken(models.Model):
    """What a program may do with a bearer token; of its secret only a digest is kept.

    `listen`, `publish` and `events` are lists of patterns: the groups it may read, the groups it
    may publish to, and the names of the events it may publish there; `metrics`: whether it may
    read the metrics.
    """

    name = models.CharField(_("name"), max_length=100)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    listen = models.JSONField(_("may listen to"), default=list, blank=True)
    publish = models.JSONField(_("may publish to"), default=list, blank=True)
    events = models.JSONField(_("may publish events"), default=list, blank=True)
    metrics = models.BooleanField(_("may read the metrics"), default=False)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    expires_at = models.DateTimeField(_("expires at"))
    revoked_at = models.DateTimeField(_("revoked at"), null=True, blank=True)

    class Meta:
        verbose_name = _("access token")
        verbose_name_plural = _("access tokens")

    def __str__(self) -> str:
        return self.name

    def is_live(self) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and self.expires_at > timezone.now()

    def may_listen(self, group: str) -> bool:
        """Whether it permits reading `group`; says nothing of whether it is live."""
        return _permits(self.listen, group)

    def may_publish(self, group: str, event: str) -> bool:
        """Whether it permits publishing `event` to `group`; says nothing of whether it is live."""
        return _permits(self.publish, group) and _permits(self.events, event)


class Ticket(models.Model):
    """Opens one stream, once, for a client that can't send cookies; used up by being deleted.

    `groups` are the policy's to permit, `grant` is the signed page's; `seal` stands for the user's
    session auth hash. All three are looked at again when the ticket is used. `session_key` names
    the session, sealed by the ticket's text.
    """

    digest = models.CharField(max_length=64, primary_key=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, null=True, related_name="+"
    )
    session_key = models.TextField(blank=True)
    seal = models.CharField(max_length=20, blank=True)
    groups = models.JSONField()
    grant = models.TextField(blank=True)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = _("ticket")
        verbose_name_plural = _("tickets")

    def __str__(self) -> str:
        return f"{', '.join(self.groups)} until {self.expires_at:%H:%M:%S}"


class Revocation(models.Model):
    """What pages were granted before `at` does not hold any more for this user and group.

    An empty `user` means everybody, an empty `group` every group.
    """

    user = models.CharField(max_length=64, blank=True)
    group = models.CharField(max_length=80, blank=True)
    at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = _("revocation")
        verbose_name_plural = _("revocations")
        constraints = [
            models.UniqueConstraint(fields=["user", "group"], name="sse_app_revoked_once")
        ]

    def __str__(self) -> str:
        return f"{self.user or '*'} {self.group or '*'} {self.at:%F %T}"
