"""Deadlines as people write them (`12h`, `2026-12-24 18:00`)."""

import re
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from imagemill.db.errors import UsageError

_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smhdw])")
_UNITS = MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400})


def read_deadline(given: str | timedelta | datetime) -> timedelta | datetime:
    """A duration, or a time with its zone; a time without one is this machine's local time.

    Raises `UsageError` for a text that is neither, and for what has passed already.
    """
    found = _read(given.strip()) if isinstance(given, str) else given
    if isinstance(found, datetime):
        found = found.astimezone(UTC)
    late = found <= timedelta() if isinstance(found, timedelta) else found <= datetime.now(UTC)
    if late:
        raise UsageError(f"deadline {given}: it has passed already")
    return found


def _read(text: str) -> timedelta | datetime:
    try:
        if (duration := _DURATION.fullmatch(text)) is not None:
            return timedelta(seconds=float(duration[1]) * _UNITS[duration[2]])
        return datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise UsageError(
            f"deadline {text[:80]!r} is neither a duration, such as 12h (s, m, h, d or w), nor a "
            "time, such as 2026-12-24T18:00"
        ) from None


def seconds_left(deadline: timedelta | datetime) -> float:
    """The seconds until a deadline, at least one."""
    left = deadline if isinstance(deadline, timedelta) else deadline - datetime.now(UTC)
    return max(1.0, left.total_seconds())
