"""The demo's rows: orders that publish their changes, and chat messages."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from sse_app.changes import publish_changes


@publish_changes(groups=["orders"], fields=["customer", "item", "status", "total"])
class Order(models.Model):
    """An order, from its placement to its delivery."""

    class Status(models.TextChoices):
        NEW = "new"
        PAID = "paid"
        PACKED = "packed"
        SHIPPED = "shipped"
        DELIVERED = "delivered"

    customer = models.CharField(max_length=60)
    item = models.CharField(max_length=80)
    status = models.CharField(max_length=10, choices=Status, default=Status.NEW)
    total = models.DecimalField(max_digits=8, decimal_places=2)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-updated_at", "-pk"]

    def __str__(self) -> str:
        return f"#{self.pk} {self.item} for {self.customer}"

    def advance(self) -> bool:
        """Save the order in its next status; False if it has been delivered."""
        steps = self.Status.values
        if self.status == steps[-1]:
            return False
        self.status = steps[steps.index(self.status) + 1]
        self.save(update_fields=["status", "updated_at"])
        return True


class ChatMessage(models.Model):
    """A message in a chat room."""

    room = models.SlugField(max_length=40)
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="chat_messages"
    )
    text = models.CharField(max_length=500)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["pk"]
        indexes = [models.Index(fields=["room", "-id"])]

    def __str__(self) -> str:
        return f"{self.author} in {self.room}: {self.text[:40]}"

    def as_event(self) -> dict[str, object]:
        """Return the fields that a page shows, and the id, by which it skips a repeat."""
        return {
            "id": self.pk,
            "author": self.author.get_username(),
            "text": self.text,
            "at": self.created,
        }
