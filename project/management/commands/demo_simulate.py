"""Keep the board moving: place, advance and clear orders until a signal."""

import random
import signal
import threading
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, close_old_connections

from project.models import Order
from project.orders import advance_order, clear_delivered, place_order

BOARD = 24
FEWEST_OPEN = 8
MOST_OPEN = 16


class Command(BaseCommand):
    """Simulates a busy shop; ends without an error on SIGTERM and Ctrl-C."""

    help = "Create and advance orders for ever, so that something happens by itself."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare `--interval`."""
        parser.add_argument(
            "--interval",
            type=float,
            default=2.0,
            help="mean seconds between two changes; each pause is 0.5 to 1.5 times as long",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Change one order after the other until a signal."""
        interval = options["interval"]
        if not 0 < interval < threading.TIMEOUT_MAX:
            raise CommandError(f"--interval must be more than 0 seconds, not {interval}.")
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        while not stop.wait(interval * random.uniform(0.5, 1.5)):
            close_old_connections()
            try:
                self._step()
            except OperationalError as error:
                self.stderr.write(f"The database is away ({error}); trying again.")

    def _step(self) -> None:
        waiting = Order.objects.exclude(status=Order.Status.DELIVERED)
        open_orders = list(waiting.values_list("pk", flat=True))
        few, many = len(open_orders) < FEWEST_OPEN, len(open_orders) >= MOST_OPEN
        if few or (not many and random.random() < 0.25):
            place_order()
            clear_delivered(keep=BOARD)
            return
        try:
            advance_order(random.choice(open_orders))
        except Order.DoesNotExist:
            return  # Somebody in the admin was faster.
