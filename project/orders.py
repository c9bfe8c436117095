"""Changes of orders, for the buttons, the simulator and the first data."""

import random
from decimal import Decimal

from django.db import transaction

from project.models import Order
from sse_app import publish_template

HTMX_GROUP = "orders.htmx"
TURBO_GROUP = "orders.turbo"

CUSTOMERS = ["Ada", "Alan", "Barbara", "Edsger", "Grace", "Hedy", "Ken", "Margaret", "Radia", "Tim"]
ITEMS = {
    "Espresso cups": "24.00",
    "Desk lamp": "59.90",
    "Fountain pen": "38.50",
    "Wool blanket": "89.00",
    "Bicycle bell": "12.80",
    "Paper globe": "45.00",
    "Chess set": "64.00",
    "Garden shears": "31.20",
    "Record sleeve": "9.50",
    "Walnut tray": "42.00",
}


def place_order(status: str = Order.Status.NEW) -> Order:
    """Save a new order of a random item for a random customer."""
    item, price = random.choice(list(ITEMS.items()))
    with transaction.atomic():
        order = Order.objects.create(
            customer=random.choice(CUSTOMERS),
            item=item,
            status=status,
            total=Decimal(price) * random.randint(1, 3),
        )
        publish_row(order)
    return order


def advance_order(pk: int) -> Order:
    """Move an order to its next status; raise Order.DoesNotExist if it was deleted."""
    with transaction.atomic():
        # The lock makes two simultaneous requests two steps, not the same step twice.
        order = Order.objects.select_for_update().get(pk=pk)
        order.advance()
        publish_row(order)
    return order


def clear_delivered(keep: int) -> int:
    """Delete the oldest delivered orders beyond `keep` orders; return how many were deleted."""
    surplus = Order.objects.count() - keep
    if surplus <= 0:
        return 0
    delivered = Order.objects.filter(status=Order.Status.DELIVERED).order_by("updated_at")
    gone = list(delivered[:surplus])
    for order in gone:
        with transaction.atomic():
            publish_no_row(order)
            order.delete()
    return len(gone)


def publish_row(order: Order) -> None:
    """Publish the order's row as HTML, in the transaction that changed it."""
    context = {"order": order, "fresh": True}
    publish_template(HTMX_GROUP, "order.row", "_htmx_row.html", context)
    publish_template(TURBO_GROUP, "message", "_turbo_row.html", context)


def publish_no_row(order: Order) -> None:
    """Publish that the order's row is removed, before the order is deleted and loses its id."""
    publish_template(HTMX_GROUP, "order.gone", "_htmx_gone.html", {"order": order})
    publish_template(TURBO_GROUP, "message", "_turbo_gone.html", {"order": order})
