"""Rows of the database log: the events, and the head of each group."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class GroupHead(models.Model):
    """The head of a group's log: its epoch, and the offset and mark of its last event.

    `marked` is the offset of the event with `mark`. A process of an older version of the app counts
    `offset` and not `marked`; the last event's mark is then not known. `previous` is what `mark`
    was before the last append, for the append to return.
    """

    group = models.CharField(max_length=80, primary_key=True)
    epoch = models.CharField(max_length=16)
    offset = models.BigIntegerField(default=0)
    changed_at = models.DateTimeField(db_index=True)
    # The database has the defaults, because an older version inserts rows without these columns.
    mark = models.CharField(max_length=4, db_default="")
    marked = models.BigIntegerField(db_default=0)
    previous = models.CharField(max_length=4, db_default="")

    class Meta:
        verbose_name = _("group head")
        verbose_name_plural = _("group heads")

    def __str__(self) -> str:
        return f"{self.group} {self.epoch}-{self.offset}"


class StoredEvent(models.Model):
    """A durable event. A staged event has no `offset` until it is numbered after the commit.

    The primary key is never a cursor: a lower key can commit after a higher one was read.
    """

    id = models.BigAutoField(primary_key=True)
    group = models.CharField(max_length=80)
    offset = models.BigIntegerField(null=True)
    name = models.CharField(max_length=64)
    # UTF-8 bytes and not text, because PostgreSQL's text can't hold NUL.
    data = models.BinaryField()
    created_at = models.DateTimeField(db_index=True)
    #: The mark of the event before, if that is known, and the event's own mark: 8 or 4 characters.
    #: Empty until the event has an offset, and for an event of an older version of the app.
    marks = models.CharField(max_length=8, db_default="")
    #: See `Event.excluded_text`.
    excluded = models.TextField(db_default="")

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
