"""Rows of presence: the members of groups, and the server processes with their streams."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class GroupMember(models.Model):
    """A user who is in a group; one row for all processes and tabs.

    `leaves_at` is set while no process has a stream of the user: the time at which the user leaves.
    """

    group = models.CharField(max_length=80)
    user_key = models.CharField(max_length=64)
    name = models.CharField(max_length=255)
    since = models.DateTimeField()
    leaves_at = models.DateTimeField(null=True, db_index=True)
    # JSON. The database has the default, because an older version inserts rows without the column.
    data = models.TextField(db_default="")

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
    """A server process that has at least one stream of a user in a group.

    The process writes the row; after its death other processes delete it.
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
