"""A value of the database as JSON and as text: the same for both databases."""

import base64
import json
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from imagemill.db.errors import UsageError


def json_value(value: Any) -> Any:
    """The value as JSON: times in ISO 8601 and UTC, bytes in base64, NaN and infinity as null."""
    found: Any
    match value:
        case None | bool() | int() | str():
            found = value
        case float():
            found = value if math.isfinite(value) else None
        case Decimal():
            found = _number(value)
        case datetime():
            found = value.astimezone(UTC).isoformat() if value.tzinfo else value.isoformat()
        case date() | time():
            found = value.isoformat()
        case timedelta():
            found = value.total_seconds()
        case bytes() | memoryview():
            found = base64.b64encode(value).decode("ascii")
        case dict():
            found = {str(key): json_value(item) for key, item in value.items()}
        case list() | tuple():
            found = [json_value(item) for item in value]
        case _:  # UUID, ranges, addresses
            found = str(value)
    return found


def text_value(value: Any) -> str:
    """The value as the text of a cell: nothing for NULL, JSON for what is nested."""
    found = json_value(value)
    if found is None:
        return "" if value is None else str(value)
    if isinstance(found, str):
        return found
    return json.dumps(found, ensure_ascii=False)


def check_names(columns: Sequence[str]) -> None:
    """Raise `UsageError` for a name that two columns have: an object has each name once."""
    twice = {name for name in columns if columns.count(name) > 1}
    if twice:
        raise UsageError(f"two columns are called {min(twice)}; name one of them with AS")


def _number(value: Decimal) -> int | float | None:
    if not value.is_finite():
        return None
    return int(value) if value == value.to_integral_value() else float(value)
