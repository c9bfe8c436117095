"""The demo's rows in Django's admin: saving an order here moves the board."""

from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest

from project.models import ChatMessage, Order
from project.orders import publish_no_row, publish_row
from sse_app.admin import BroadcastActionMixin


@admin.register(Order)
class OrderAdmin(BroadcastActionMixin, admin.ModelAdmin):
    """Orders; the status can be changed in the list, and the selected ones announced."""

    broadcast_group = "orders"
    list_display = ["id", "customer", "item", "status", "total", "updated_at"]
    list_editable = ["status"]
    list_filter = ["status"]
    search_fields = ["customer", "item"]

    def save_model(self, request: HttpRequest, obj: Order, form: Any, change: bool) -> None:
        """Save the order and publish its row."""
        with transaction.atomic():
            super().save_model(request, obj, form, change)
            publish_row(obj)

    def delete_model(self, request: HttpRequest, obj: Order) -> None:
        """Delete the order and publish that its row is gone."""
        with transaction.atomic():
            publish_no_row(obj)
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Order]) -> None:
        """Delete the selected orders and publish that their rows are gone."""
        with transaction.atomic():
            for order in queryset:
                publish_no_row(order)
            super().delete_queryset(request, queryset)


@admin.register(ChatMessage)
class ChatMessageAdmin(admin.ModelAdmin):
    """The chat's messages. Deleting one removes it from the history, but not from open pages."""

    list_display = ["id", "room", "author", "text", "created"]
    list_filter = ["room"]
    list_select_related = ["author"]
    readonly_fields = ["created"]
    search_fields = ["text"]
