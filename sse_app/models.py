"""Rows: the database log's events and heads, and what grants or ends access.

Those of broadcasts are in `broadcast_models`, those of presence in `presence_models`.
"""

from __future__ import annotations

import json
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .broadcasts.models import Broadcast as Broadcast
from .broadcasts.models import BroadcastCount as BroadcastCount
from .broadcasts.models import group_validator as group_validator  # The first migration's.
from .broadcasts.models import name_validator as name_validator
from .presence.models import GroupMember as GroupMember
from .presence.models import Presence as Presence
from .protocol.groups import matches


class GroupHead(models.Model):
    """Where a group's log is: its epoch and the offset of its last event."""

    group = models.CharField(max_length=80, primary_key=True)
    epoch = models.CharField(max_length=16)
    offset = models.BigIntegerField(default=0)
    changed_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = _("group head")
        verbose_name_plural = _("group heads")

    def __str__(self) -> str:
        return f"{self.group} {self.epoch}-{self.offset}"


class StoredEvent(models.Model):
    """A durable event. `offset` is unset from the insert until its numbering after commit.

    The primary key is never a cursor: a lower one can commit after a higher one was read.
    """

    id = models.BigAutoField(primary_key=True)
    group = models.CharField(max_length=80)
    offset = models.BigIntegerField(null=True)
    name = models.CharField(max_length=64)
    # UTF-8 bytes and not text, because PostgreSQL's text can't hold NUL.
    data = models.BinaryField()
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = _("stored event")
        verbose_name_plural = _("stored events")
        constraints = [
            models.UniqueConstraint(fields=["group", "offset"], name="sse_app_group_offset")
        ]
        indexes = [
            models.Index(
                fields=["group", "id"],
                name="sse_app_waiting",
                condition=models.Q(offset__isnull=True),
            )
        ]

    def __str__(self) -> str:
        return f"{self.group} {self.offset} {self.name}"


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


class HandledMessage(models.Model):
    """The answer to a message that a page sent up with an idempotency key."""

    digest = models.CharField(max_length=64, primary_key=True)
    status = models.SmallIntegerField(null=True)
    answer = models.TextField(blank=True)
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = _("handled message")
        verbose_name_plural = _("handled messages")

    def __str__(self) -> str:
        return f"{self.digest[:8]} {self.status}"


class ServerProcess(models.Model):
    """A server process and what it last said of itself; written by that process alone.

    `report` and the rows in `streams` are as `sse_app.operations.reports` makes them. `streams` is
    JSON text, and empty unless somebody has asked for it until `watched_until`: it may be a
    megabyte.
    """

    name = models.CharField(_("name"), max_length=32, primary_key=True)
    host = models.CharField(_("host"), max_length=255)
    pid = models.PositiveIntegerField(_("process id"))
    started_at = models.DateTimeField(_("started at"))
    seen_at = models.DateTimeField(_("seen at"), db_index=True)
    watched_until = models.DateTimeField(null=True, editable=False)
    report = models.JSONField(_("report"), default=dict)
    streams = models.TextField(blank=True, editable=False)

    class Meta:
        verbose_name = _("server process")
        verbose_name_plural = _("live streams")
        ordering = ["host", "pid"]
        default_permissions = ("view",)
        permissions = [
            ("end_streams", _("Can end streams")),
            ("read_events", _("Can read the events of groups")),
        ]

    def __str__(self) -> str:
        return f"{self.host} {self.pid}"

    def all_streams(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of its streams, `"open"` and `"ended"`; none unless it is watched.

        One query if the row was read without them, as `processes.alive()` does.
        """
        found: dict[str, list[dict[str, Any]]]
        found = json.loads(self.streams) if self.streams else {"open": [], "ended": []}
        return found
