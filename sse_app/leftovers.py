"""Rows that nobody will ask for any more, beside the events themselves."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from . import repeats, tickets
from .conf import settings
from .models import Revocation


def forget() -> None:
    """Delete unused tickets, answers kept for repeats, and what took back grants now expired."""
    tickets.forget_old()
    repeats.forget_old()
    expired = timezone.now() - timedelta(seconds=settings().GRANT_AGE)
    Revocation.objects.filter(at__lt=expired).delete()
