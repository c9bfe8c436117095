"""Rows of server processes."""

from __future__ import annotations

import json
import socket
from typing import Any, Final

from django.db import models
from django.utils.translation import gettext_lazy as _

#: This machine's name in the rows of its processes.
HOST: Final = socket.gethostname()[:255]


class ServerProcess(models.Model):
    """A server process and its last report; only that process writes the row.

    `sse_app.operations.reports` makes `report` and the rows in `streams`. `streams` is JSON text of
    up to a megabyte. It is empty, unless a dashboard has asked for it by `watched_until`. The
    reports are written more often until `read_until`.
    """

    name = models.CharField(_("name"), max_length=32, primary_key=True)
    host = models.CharField(_("host"), max_length=255)
    pid = models.PositiveIntegerField(_("process id"))
    started_at = models.DateTimeField(_("started at"))
    seen_at = models.DateTimeField(_("seen at"), db_index=True)
    watched_until = models.DateTimeField(null=True, editable=False)
    read_until = models.DateTimeField(null=True, editable=False)
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
        """Return the rows of the process's streams, `"open"` and `"ended"`; see `streams`.

        One query if `streams` was deferred, as by `processes.alive()`.
        """
        found: dict[str, list[dict[str, Any]]]
        found = json.loads(self.streams) if self.streams else {"open": [], "ended": []}
        return found
