"""The demo's rows in Django's admin: saving an order here moves the board."""

from django.contrib import admin

from project.models import ChatMessage, Order
from sse_app.admin import BroadcastActionMixin


@admin.register(Order)
class OrderAdmin(BroadcastActionMixin, admin.ModelAdmin):
    """Orders; the status can be changed in the list, and the selected ones announced."""

    broadcast_group = "orders"
    list_display = ["id", "customer", "item", "status", "total", "updated_at"]
    list_editable = ["status"]
    list_filter = ["status"]
    search_fields = ["customer", "item"]


@admin.register(ChatMessage)
class ChatMessageAdmin(admin.ModelAdmin):
    """What was said; deleting a line here takes it out of the history only."""

    list_display = ["id", "room", "author", "text", "created"]
    list_filter = ["room"]
    list_select_related = ["author"]
    readonly_fields = ["created"]
    search_fields = ["text"]
