"""What a project has of its own: a model whose changes are published."""

from __future__ import annotations

from django.db import models

from sse_app.changes import publish_changes


@publish_changes(groups=["orders"], fields=["status"])
class Order(models.Model):
    status = models.CharField(max_length=20)

    def __str__(self) -> str:
        return self.status
