"""The models of access tokens, tickets and revocations.

Their references to users have no constraint in the database, and the deletion of a user deletes no
row: where each tenant has users of its own, the users are in other schemas than these tables, and
have the same primary keys. A row of a deleted user signs nobody in.
"""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..protocol.groups import fits


def _permits(patterns: object, name: str) -> bool:
    # Each character of a string would be a pattern, and one of them may be "*".
    return isinstance(patterns, list) and fits(name, map(str, patterns))


class AccessToken(models.Model):
    """The rights of a program with a bearer token. Only a digest of the secret is stored.

    `listen`, `publish` and `events` are lists of patterns: the groups that the program may read,
    the groups it may publish to, and the event names it may publish there. `metrics`: whether it
    may read the metrics. The token of a `user` has the rights of that user and no others; `seal` is
    a digest of the user's session auth hash.
    """

    name = models.CharField(_("name"), max_length=100)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        null=True,
        editable=False,
        related_name="+",
        db_constraint=False,
    )
    seal = models.CharField(max_length=20, blank=True, editable=False, db_default="")
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
        """Whether the token is neither revoked nor expired."""
        return self.revoked_at is None and self.expires_at > timezone.now()

    def may_listen(self, group: str) -> bool:
        """Whether the token permits reading `group`. Does not check whether it is live."""
        return _permits(self.listen, group)

    def may_publish(self, group: str, event: str) -> bool:
        """Whether the token permits publishing `event` to `group`. Does not check `is_live()`."""
        return _permits(self.publish, group) and _permits(self.events, event)


class Ticket(models.Model):
    """Opens one stream, once, for a client that can't send cookies; the use deletes the row.

    The policy decides about `groups`; `grant` is a page's signed grant; `seal` is a digest of the
    user's session auth hash. All three are checked again when the ticket is used. `session_key`
    is the session's name, encrypted with the ticket's text.
    """

    digest = models.CharField(max_length=64, primary_key=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        null=True,
        related_name="+",
        db_constraint=False,
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
    """Grants made before `at` are no longer valid for this user and group.

    An empty `user` means all users, an empty `group` all groups.
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
