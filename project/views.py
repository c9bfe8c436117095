"""The demo's pages, and the few requests that their buttons make."""

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe

from project import orders as shop
from project.clock import ticks_for_one_page
from project.imports import ROWS, start_import
from project.inbox import ROOM_LENGTH
from project.models import ChatMessage, Order
from sse_app import cursor, presence
from sse_app.responses import EventStreamResponse

BOARD_LIMIT = 60
HISTORY = 50
ROOMS = ["lobby", "kitchen", "support"]


def _as_json(order: Order) -> dict[str, Any]:
    """The same keys as in the events that `publish_changes` makes."""
    return {
        "pk": order.pk,
        "customer": order.customer,
        "item": order.item,
        "status": order.status,
        "total": order.total,
    }


@require_safe
def board(request: HttpRequest) -> HttpResponse:
    """The board: every order, by status."""
    # First the position, then the rows: a change in between arrives as an event.
    position = cursor("orders")
    rows = list(Order.objects.all())
    columns = [
        (status, [order for order in rows if order.status == status]) for status in Order.Status
    ]
    return render(request, "board.html", {"columns": columns, "position": position})


@require_safe
def orders(request: HttpRequest) -> JsonResponse:
    """Every order as JSON, for a page that loads its state again after `sse.reset`."""
    return JsonResponse({"orders": [_as_json(order) for order in Order.objects.all()]})


@require_POST
def new_order(request: HttpRequest) -> JsonResponse:
    """Place an order. Any visitor may do this, so a full board accepts no more orders."""
    shop.clear_delivered(keep=BOARD_LIMIT - 1)
    if Order.objects.count() >= BOARD_LIMIT:
        return JsonResponse({"error": "The board is full. Advance an order first."}, status=409)
    return JsonResponse(_as_json(shop.place_order()), status=201)


@require_POST
def advance_order(request: HttpRequest, pk: int) -> JsonResponse:
    """Move an order to its next status; a delivered one keeps its status."""
    try:
        return JsonResponse(_as_json(shop.advance_order(pk)))
    except Order.DoesNotExist:
        return JsonResponse({"error": f"Order #{pk} is gone."}, status=404)


def _history(room: str) -> list[ChatMessage]:
    if len(room) > ROOM_LENGTH:
        raise Http404(f"A room's name has at most {ROOM_LENGTH} characters.")
    newest = ChatMessage.objects.filter(room=room).select_related("author").order_by("-pk")
    return list(reversed(newest[:HISTORY]))


@require_safe
def chat(request: HttpRequest, room: str) -> HttpResponse:
    """A chat room with its last messages."""
    group = f"chat.{room}"
    if len(room) > ROOM_LENGTH:
        raise Http404(f"A room's name has at most {ROOM_LENGTH} characters.")
    position = cursor(group)
    context = {
        "room": room,
        "rooms": ROOMS if room in ROOMS else [*ROOMS, room],
        "group": group,
        "position": position,
        "history": _history(room),
    }
    return render(request, "chat.html", context)


@require_safe
def chat_messages(request: HttpRequest, room: str) -> JsonResponse:
    """The last messages and the members, as JSON, for a page that loads its state again."""
    messages = [message.as_event() for message in _history(room)]
    people = presence.members(f"chat.{room}")
    members = [{"user": member.user, "name": member.name} for member in people]
    return JsonResponse({"messages": messages, "members": members})


@require_safe
def import_page(request: HttpRequest) -> HttpResponse:
    """The bar of a long task, and the button that starts it."""
    return render(request, "import.html", {"rows": ROWS})


@require_POST
def begin_import(request: HttpRequest) -> JsonResponse:
    """Start the long task. Any visitor may do this, so one task runs at a time."""
    if not start_import():
        return JsonResponse({"error": "An import is running already."}, status=409)
    return JsonResponse({}, status=202)


@require_safe
def clock(request: HttpRequest) -> HttpResponse:
    """The page around the one-off stream."""
    return render(request, "clock.html")


async def clock_stream(request: HttpRequest) -> EventStreamResponse:
    """The time every second, from an ordinary async view."""
    return EventStreamResponse(ticks_for_one_page())
