"""Rows of messages from pages with an idempotency key."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class HandledMessage(models.Model):
    """The answer to a message from a page with an idempotency key."""

    digest = models.CharField(max_length=64, primary_key=True)
    status = models.SmallIntegerField(null=True)
    answer = models.TextField(blank=True)
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = _("handled message")
        verbose_name_plural = _("handled messages")

    def __str__(self) -> str:
        return f"{self.digest[:8]} {self.status}"
