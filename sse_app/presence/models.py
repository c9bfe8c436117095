"""Rows of presence: who is in a group, and which server processes say so."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class GroupMember(models.Model):
    """A user who is in a group: once, over all processes and tabs.

    `leaves_at` is set while no process has a stream of theirs: when they will have left.
    """

    group = models.CharField(max_length=80)
    user_key = models.CharField(max_length=64)
    name = models.CharField(max_length=255)
    since = models.DateTimeField()
    leaves_at = models.DateTimeField(null=True, db_index=True)

    class Meta:
        verbose_name = _("group member")
        verbose_name_plural = _("group members")
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["group", "user_key"], name="sse_app_member_once")
        ]

    def __str__(self) -> str:
        return f"{self.group} {self.name}"


class Presence(models.Model):
    """A server process has at least one stream of a user in a group; written by that process.

    The others delete it when that process has died.
    """

    group = models.CharField(max_length=80)
    user_key = models.CharField(max_length=64)
    process = models.CharField(max_length=32, db_index=True)

    class Meta:
        verbose_name = _("presence")
        verbose_name_plural = _("presences")
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["group", "user_key", "process"], name="sse_app_present_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.group} {self.user_key} {self.process}"
