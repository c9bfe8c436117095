"""The content of an event of a row: values as the database has them, in a text that always fits.

Neither a long text nor a value without a form in JSON may fail the save of a row.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, InvalidOperation
from math import isfinite
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import connections, models
from django.utils.functional import Promise
from django.utils.timezone import get_default_timezone, is_naive, make_aware

from ..conf import settings
from ..protocol.events import fits, to_text

if TYPE_CHECKING:
    Field = models.Field[Any, Any]


def as_read(field: Field, value: Any, using: str) -> Any:
    """Return `value` as a read from the database gives it: `20` of a price is `20.00`."""
    field = getattr(field, "output_field", field)  # of a GeneratedField
    with suppress(ValidationError, TypeError, ValueError):
        value = field.to_python(value)
    if value is None:
        return None
    connection: Any = connections[using]
    if isinstance(field, models.DecimalField) and field.decimal_places is not None:
        half = ROUND_HALF_UP if connection.vendor == "postgresql" else ROUND_HALF_EVEN
        try:
            return value.quantize(Decimal(1).scaleb(-field.decimal_places), half, field.context)
        except InvalidOperation:
            return value  # NaN, which PostgreSQL stores.
    if isinstance(field, models.DateTimeField) and connection.timezone is not None:
        aware = make_aware(value, get_default_timezone()) if is_naive(value) else value
        return aware.astimezone(connection.timezone)
    if isinstance(field, models.JSONField):
        return json.loads(json.dumps(value, cls=field.encoder), cls=field.decoder)
    if isinstance(field, models.FileField):
        return str(value)
    return value


def event_text(
    name: str, data: object, key: object, names: Iterable[str], *, any_type: bool
) -> str:
    """Return `data` as the text of an event `name`, without a reason of its content to fail.

    Values without a form in JSON are given as text: infinity, and with `any_type` all types that
    Django's encoder does not know. Data beyond `MAX_EVENT_BYTES` is replaced by the row's `key` and
    the `names` of its parts: `{"pk": …, "omitted": […]}`.
    """
    text = _encoded(data, any_type)
    for omitted in ([*names], []):
        if fits(name, text, settings().MAX_EVENT_BYTES):
            break
        text = _encoded({"pk": key, "omitted": omitted}, any_type=True)
    return text


def _encoded(data: object, any_type: bool) -> str:
    try:
        return to_text(data)
    except ValueError:
        return to_text(_plain(data))
    except TypeError:
        if not any_type:
            raise  # An error of a serializer, and not of what a row contains.
        return to_text(_plain(data))


def _plain(value: Any) -> Any:
    """Return `value` with a text in place of all that JSON can't hold."""
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(value).decode("ascii")
    known = (int, Decimal, UUID, date, time, timedelta, datetime, Promise)
    return value if value is None or isinstance(value, known) else str(value)
