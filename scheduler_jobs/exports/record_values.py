"""What the values of an exported record may be, so that an import takes nothing else.

The parameters are not among them: the request key says whether they are those of the picture.
"""

import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from imagemill.db.queries.pictures.image_search import MOST_ID
from imagemill.db.states import Outcome

_HASH = re.compile(r"[0-9a-f]{64}")
_NAME_CHARACTERS = 200


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, int) and not isinstance(value, bool) and low <= value <= MOST_ID
    )


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _NAME_CHARACTERS


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_duration(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value >= 0


_ALLOWED: Mapping[str, tuple[str, Callable[[Any], bool]]] = MappingProxyType(
    {
        "image_id": ("a whole number from 1", _whole(1)),
        "job_id": ("a whole number from 1", _whole(1)),
        "job_name": (f"a text of 1 to {_NAME_CHARACTERS} characters", _is_name),
        "row_number": ("a whole number from 1", _whole(1)),
        "row_key": ("a text, or none", _is_text_or_none),
        "sample_index": ("a whole number from 0", _whole(0)),
        "prompt_cut": ("a text, or none", _is_text_or_none),
        "seconds": ("a number from 0", _is_duration),
        "created_at": ("a time", lambda value: isinstance(value, datetime)),
        "outcome": (f"one of {', '.join(Outcome)}", lambda value: value in list(Outcome)),
        "pixels_sha256": ("64 hex digits", _is_hash),
        "environment": ("64 hex digits", _is_hash),
    }
)


def value_problem(values: Mapping[str, Any]) -> str | None:
    """What a record's first wrong value is, and what it may be; None if all are right."""
    for name, (allowed, is_right) in _ALLOWED.items():
        if not is_right(values[name]):
            return f"{name}: {repr(values[name])[:60]}; allowed: {allowed}"
    return None
