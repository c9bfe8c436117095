"""Rows of orders as HTML: the pages for htmx and for Turbo, and the fragments that move them."""

import secrets

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe

from project import orders as shop
from project.middleware import POLICY
from project.models import Order
from sse_app import cursor

ROWS = 60


def _context(group: str) -> dict[str, object]:
    # First the position, then the rows: a change in between arrives as an event.
    position = cursor(group)
    return {"position": position, "group": group, "orders": list(Order.objects.all()[:ROWS])}


@require_safe
def htmx(request: HttpRequest) -> HttpResponse:
    """A list for htmx, which swaps in the data of named events."""
    return render(request, "htmx.html", _context(shop.HTMX_GROUP))


@require_safe
def turbo(request: HttpRequest) -> HttpResponse:
    """A list for Turbo: its messages name the element that they change."""
    nonce = secrets.token_urlsafe(16)
    response = render(request, "turbo.html", _context(shop.TURBO_GROUP) | {"style_nonce": nonce})
    # Turbo adds the style of its progress bar inline.
    policy = f"{POLICY}; style-src 'self' 'nonce-{nonce}'"
    response.headers["Content-Security-Policy"] = policy
    return response


@require_POST
def place(request: HttpRequest) -> HttpResponse:
    """Place an order. The page gets the new row by its stream, so the answer is empty."""
    shop.clear_delivered(keep=ROWS - 1)
    if Order.objects.count() >= ROWS:
        return HttpResponse("The board is full. Advance an order first.", status=409)
    shop.place_order()
    return HttpResponse(status=204)


@require_POST
def advance(request: HttpRequest, pk: int) -> HttpResponse:
    """Move an order to its next status; do nothing if it was deleted."""
    try:
        shop.advance_order(pk)
    except Order.DoesNotExist:
        return HttpResponse(f"Order #{pk} is gone.", status=404)
    return HttpResponse(status=204)
