"""Fill the demo's database: three logins, a board of orders, a few lines of chat."""

import os
import shlex
import sys
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand
from django.db import transaction

from project.models import ChatMessage, Order
from project.orders import place_order

ORDERS = 12
LOGINS = {"admin": True, "ann": False, "bob": False}
CHAT = [
    ("ann", "Morning! The parcels for Grace are packed."),
    ("bob", "Thanks, I will take them with me at ten."),
    ("ann", "Watch the board: it moves by itself."),
]


class Command(BaseCommand):
    """Creates the rows that are missing and changes no others, so it can run at every start."""

    help = "Create the demo's logins and first orders where they are missing."

    def handle(self, *args: Any, **options: Any) -> None:
        """Create the rows in one transaction and print the site's address."""
        with transaction.atomic():
            self._create_users()
            self._create_orders()
            self._create_chat()
        self._print_addresses()

    def _create_users(self) -> None:
        users = get_user_model()._default_manager
        for name, is_admin in LOGINS.items():
            user, created = users.get_or_create(
                username=name, defaults={"is_staff": is_admin, "is_superuser": is_admin}
            )
            if created:
                user.set_password(name)
                user.save(update_fields=["password"])

    def _create_orders(self) -> None:
        steps = Order.Status.values
        for number in range(Order.objects.count(), ORDERS):
            place_order(status=steps[number % len(steps)])

    def _create_chat(self) -> None:
        if ChatMessage.objects.filter(room="lobby").exists():
            return
        users = get_user_model()._default_manager
        for name, text in CHAT:
            author = users.get(username=name)
            ChatMessage.objects.create(room="lobby", author=author, text=text)

    def _print_addresses(self) -> None:
        everywhere = settings.HOST in {"0.0.0.0", "::"}
        site = f"http://{'localhost' if everywhere else settings.URL_HOST}:{settings.PORT}"
        manage = f"DEBUG=1 {shlex.quote(os.path.relpath(sys.executable))} manage.py"
        self.stdout.write(
            f"\n  The demo    {site}/\n"
            f"  The board   {site}/board/      (open it in two tabs)\n"
            f"  The chat    {site}/chat/lobby/\n"
            f"  The admin   {site}/admin/\n"
            f"  Logins (name and password are the same): {', '.join(LOGINS)}\n\n"
            "  In a second terminal, in this folder:\n"
            f"    curl -N '{site}/events/?group=orders'\n"
            f"    {manage} sse_publish orders hello world\n"
            f"    {manage} sse_doctor --url '{site}/events/?group=orders'\n\n"
            "  Ctrl-C ends the demo.\n"
        )
        if everywhere:
            self.stdout.write(
                self.style.WARNING(
                    f"  HOST={settings.HOST} opens these logins to the whole network; browsers"
                    " elsewhere also need their name for this machine in ALLOWED_HOSTS.\n"
                )
            )
