"""Reads one value, strictly, from text (CSV, flags) or typed data (JSON, Parquet, TOML).

Every function returns the value or raises `BadValue`, with the content and what is allowed.
"""

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from imagemill.db.samplers.names import SAMPLERS, absent_sampler, find_sampler
from imagemill.db.samplers.options import option_problem
from imagemill.db.seeds import DERIVE, SEED_LIMIT
from imagemill.scheduler_jobs.manifest.problems import BadValue, shown

NAME_BYTES = 255
MISSING_WORDS = frozenset({"nan", "none", "null", "<na>", "n/a", "#n/a", "nat"})
SIZE_STEP = 8
"""Sizes are multiples of this, because every autoencoder in use needs it."""

_DEEPEST = 100
"""The deepest nesting of an extra, far below the limit of a JSON writer."""

_EXACT_FLOATS = 2**53
"""Below this every whole number is exact as a float."""
_DIGITS = re.compile(r"[+-]?[0-9]{1,30}", re.ASCII)
_WHOLE_TEXT = re.compile(r"(-?[0-9]{1,15})\.0+", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]{1,30}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", re.ASCII)
_SIZE = re.compile(r"\s*([0-9]{1,9})\s*[xX×*,]\s*([0-9]{1,9})\s*", re.ASCII)
_SIZE_BRACKETS = re.compile(r"\s*(?:\((.*)\)|\[(.*)\])\s*", re.DOTALL)
_BOOLEANS = {
    "true": True,
    "yes": True,
    "1": True,
    "false": False,
    "no": False,
    "0": False,
}
_FORMATS = {"png": "png", "jpeg": "jpeg", "jpg": "jpeg", "webp": "webp"}
_SHA256 = re.compile(r"[0-9a-f]{64}")

Scalar = str | float | int | bool


class Base64(str):
    """Bytes of a file that are no UTF-8 text, as base64. An extra may be that, but no text."""

    __slots__ = ()


def whole(value: Any, *, low: int, high: int | None = None) -> int:
    """An integer in [low, high]. `20`, `"20"` and a float without a fraction are integers.

    A float from 2**53 is refused, also as text, because another program may have rounded it.
    """
    allowed = f"a whole number {_range(low, high)}"
    number: int | None = None
    if isinstance(value, bool):
        number = None
    elif isinstance(value, int):
        number = value
    elif isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        number = int(value)
    else:
        number = _whole_float(value)
    if number is None or number < low or (high is not None and number > high):
        raise BadValue(shown(value), allowed)
    return number


def _whole_float(value: Any) -> int | None:
    """The whole number of a float, also as text; None if it is none."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if not isinstance(value, float) or not math.isfinite(value) or not value.is_integer():
        return None
    if abs(value) >= _EXACT_FLOATS:
        raise BadValue(
            f"{shown(value)}, a float above 2^53, which has been rounded",
            "the digits themselves: a whole number, or a text of digits",
        )
    return int(value)


def number(
    value: Any, *, low: float, high: float | None, above_low: bool = False, setting: str = ""
) -> float:
    """A finite float in [low, high], or in (low, high] if `above_low`.

    `high` None means no upper limit. `setting` is the name of the setting with the upper limit.
    """
    most = math.inf if high is None else high
    allowed = f"a number {'above' if above_low else 'from'} {low:g} "
    allowed += f"and at most {most:g}" if above_low else f"to {most:g}"
    allowed += f" ({setting})" if setting else ""
    found: float | None = None
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        # An int too large for a float is out of range as well.
        found = float(value) if abs(value) <= min(most + abs(low), 1e300) else math.inf
    elif isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        found = float(value)
    if (
        found is None
        or not math.isfinite(found)
        or not low <= found <= most
        or (above_low and found == low)
    ):
        raise BadValue(shown(value), allowed)
    return found + 0.0  # -0.0 is 0.0, which is the same picture


def is_number(value: Any) -> bool:
    """Whether a value is a number, or a text of one; true and false are none."""
    if isinstance(value, str):
        return _NUMBER.fullmatch(value.strip()) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def side(value: Any, *, most_pixels: int | None = None) -> int:
    """A side of a picture in pixels; `most_pixels` bounds the whole picture."""
    most = None if most_pixels is None else most_pixels // SIZE_STEP
    allowed = f"a multiple of {SIZE_STEP} {_range(SIZE_STEP, most)}"
    try:
        found = whole(value, low=SIZE_STEP, high=most)
    except BadValue as bad:
        raise BadValue(bad.found, allowed) from None
    if found % SIZE_STEP:
        raise BadValue(shown(value), allowed)
    return found


def size(value: Any) -> tuple[str, str]:
    """The two sides of `512x768`, `(512, 768)` or a list of two, as texts that `side` reads."""
    pair = value
    if isinstance(value, list | tuple) and len(value) == 2:
        pair = f"{value[0]}x{value[1]}"
    if isinstance(pair, str) and (inside := _SIZE_BRACKETS.fullmatch(pair)):
        pair = inside[1] or inside[2] or ""
    match = _SIZE.fullmatch(pair) if isinstance(pair, str) else None
    if match is None:
        raise BadValue(shown(value), 'width x height, such as "512x768"')
    return match[1], match[2]


def text(value: Any, *, most_bytes: int | None = None, empty: bool) -> str:
    """A text. A number is refused, so that a shifted column is not taken for a prompt."""
    if not isinstance(value, str):
        raise BadValue(shown(value), "a text")
    if isinstance(value, Base64):
        raise BadValue(f"bytes that are not UTF-8, {shown(value)} as base64", "UTF-8 text")
    if not empty and not value.strip():
        raise BadValue(
            "an empty text" if not value else "only blanks", "a text that says something"
        )
    check_characters(value)
    # A character has at most four bytes. So the bytes are counted only if the limit is in reach.
    if most_bytes is not None and len(value) * 4 > most_bytes:
        count = len(value.encode())
        if count > most_bytes:
            raise BadValue(f"{count:,} bytes", f"at most {most_bytes:,} bytes")
    return value


def check_not_missing(value: Any) -> None:
    """Raise `BadValue` for a word that programs write if a text is missing."""
    if isinstance(value, str) and value.strip().casefold() in MISSING_WORDS:
        raise BadValue(
            f"{shown(value)}, which stands for a missing text",
            "a text, or an empty cell; --literal-words takes the word as it stands",
        )


def check_characters(value: str) -> None:
    """Raise `BadValue` for characters that no database stores: NUL and lone surrogates."""
    if "\0" in value:
        raise BadValue("a NUL character", "text without NUL characters")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise BadValue("half of a surrogate pair (\\ud800 to \\udfff)", "whole Unicode characters")


def name(value: Any) -> str:
    """A short name, of a model or an adapter."""
    found = text(value, most_bytes=NAME_BYTES, empty=False).strip()
    if not found.isprintable():
        raise BadValue(shown(value), "a name of printable characters")
    return found


def model(value: Any) -> str:
    """A model's name; InvokeAI writes an object that holds it."""
    return name(value.get("name") if isinstance(value, Mapping) else value)


def key(value: Any) -> str | None:
    """A row's `id` as text; None if it is missing or empty. `1.0` and `"1.0"` become `1`."""
    if value is None or value == "":
        return None
    if isinstance(value, float):
        value = _whole_float(value) if math.isfinite(value) and value.is_integer() else value
    elif isinstance(value, str) and (number := _WHOLE_TEXT.fullmatch(value.strip())):
        value = number[1]
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if value.bit_length() <= 64 else value
    if not isinstance(value, str):
        raise BadValue(shown(value), "a text or a whole number")
    return text(value, most_bytes=NAME_BYTES, empty=False)


def seed(value: Any) -> int:
    """A seed, or -1 for one derived from the job's seed and the row."""
    try:
        return whole(value, low=DERIVE, high=SEED_LIMIT - 1)
    except BadValue as bad:
        if "rounded" in bad.found:
            raise
        allowed = f"a whole number {_range(0, SEED_LIMIT - 1)}, or -1 for a derived seed"
        raise BadValue(bad.found, allowed) from None


def seeds(value: Any, *, most: int | None = None) -> tuple[int, ...]:
    """One seed for each image of the row: a list, or text with commas, semicolons or spaces."""
    items = _items(value, "a list of seeds, such as 1,2,3")
    if not items or (most is not None and len(items) > most):
        raise BadValue(f"{len(items):,} seeds", f"{_range(1, most).removeprefix('from ')} seeds")
    return tuple(whole(item, low=0, high=SEED_LIMIT - 1) for item in items)


def sampler(value: Any) -> str:
    """A sampler's canonical name, from any of its names."""
    found = find_sampler(value) if isinstance(value, str) else None
    if found is None:
        absent = absent_sampler(value) if isinstance(value, str) else None
        if absent is None:
            raise BadValue(shown(value), _closest_sampler(value))
        near = f"{absent[1]} is the nearest; " if absent[1] else ""
        raise BadValue(
            f"{shown(value)}, a sampler that imagemill does not have",
            f"{near}imagemill samplers lists those that it has",
        )
    return found.name


def boolean(value: Any) -> bool:
    """True or false, also as text."""
    if isinstance(value, str):
        value = _BOOLEANS.get(value.strip().casefold(), value)
    if not isinstance(value, bool):
        raise BadValue(shown(value), "true or false")
    return value


def choice(value: Any, allowed: Iterable[str]) -> str:
    """One of a few words, without regard to case."""
    words = tuple(allowed)
    word = value.strip().casefold() if isinstance(value, str) else None
    if word not in words:
        raise BadValue(shown(value), f"{', '.join(words[:-1])} or {words[-1]}")
    return word


def image_format(value: Any) -> str:
    """An output format: png, jpeg (also jpg) or webp."""
    word = value.strip().casefold().removeprefix(".") if isinstance(value, str) else ""
    if word not in _FORMATS:
        raise BadValue(shown(value), "png, jpeg or webp")
    return _FORMATS[word]


def input_file(value: Any) -> str:
    """The name of an init image or a mask: a hash, a path inside the inputs folder, or an S3 URI.

    The planner checks whether it exists. Nothing else is ever opened, and no URL is fetched.
    """
    allowed = "a SHA-256, a path inside the inputs folder, or s3://bucket/key"
    found = text(value, most_bytes=4096, empty=False).strip()
    if found.startswith("s3://") or _SHA256.fullmatch(found):
        return found
    path = PurePosixPath(found)
    if "://" in found or "\\" in found or path.is_absolute() or ".." in path.parts:
        raise BadValue(shown(value), allowed)
    return found


def options(value: Any) -> dict[str, Scalar]:
    """A sampler's options: an object of plain values, also as JSON text."""
    allowed = 'an object of plain values, such as {"timestep_spacing": "trailing"}'
    found = _from_json_text(value, allowed)
    if not isinstance(found, Mapping):
        raise BadValue(shown(value), allowed)
    for name, option in found.items():
        if not isinstance(option, Scalar) or (
            isinstance(option, float) and not math.isfinite(option)
        ):
            raise BadValue(shown(value), allowed)
        problem = option_problem(str(name), option)
        if problem is not None:
            raise BadValue(*problem)
    return dict(found)


def adapters(value: Any) -> list[dict[str, Any]]:
    """Adapters in order: objects with name and weight, or `name:weight`. The default is 1."""
    allowed = "adapters such as sketch:0.8,lineart:0.5, or a list of {name, weight}"
    found: list[dict[str, Any]] = []
    for item in _items(value, allowed):
        adapter = item
        if isinstance(item, str):
            label, _, weight = item.rpartition(":") if ":" in item else (item, "", "1")
            adapter = {"name": label, "weight": weight}
        if not isinstance(adapter, Mapping) or not set(adapter) <= {"name", "weight"}:
            raise BadValue(shown(item), allowed)
        strength = number(adapter.get("weight", 1.0), low=-10, high=10)
        found.append({"name": name(adapter.get("name")), "weight": strength})
    return found


def check_storable(value: Any) -> None:
    """Raise `BadValue` if an extra contains NaN, infinity or NUL, which can't be stored."""
    if isinstance(value, str):
        check_characters(value)
        return
    stack = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if depth > _DEEPEST:
            raise BadValue(f"a value nested more than {_DEEPEST} deep", "a flatter value")
        if isinstance(item, str):
            check_characters(item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise BadValue(shown(item), "a finite number")
        elif isinstance(item, Mapping):
            stack.extend((key, depth) for key in item)
            stack.extend((inner, depth + 1) for inner in item.values())
        elif isinstance(item, list):
            stack.extend((inner, depth + 1) for inner in item)


def _range(low: int, high: int | None) -> str:
    return f"of at least {low}" if high is None else f"from {low} to {high}"


def _items(value: Any, allowed: str) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        value = _from_json_text(value, allowed)
    if isinstance(value, str):
        return [item for item in re.split(r"[,;\s]+", value) if item]
    if isinstance(value, list | tuple):
        return list(value)
    raise BadValue(shown(value), allowed)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of these members. Raises `BadValue` if a key comes twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadValue(f"key {shown(key)} twice", "every key once")
            seen.add(key)
    return found


def _from_json_text(value: Any, allowed: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, object_pairs_hook=unique_keys)
    except BadValue:
        raise
    except (ValueError, RecursionError):
        raise BadValue(shown(value), allowed) from None


def _closest_sampler(value: Any) -> str:
    known = {
        alias: s.name for s in SAMPLERS for alias in (s.name, s.display.casefold(), *s.aliases)
    }
    wanted = str(value)[:NAME_BYTES].casefold().replace("-", "_").replace(" ", "_")
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {known[close[0]]}? imagemill samplers lists them all"
    return "ddim, euler, dpmpp_2m, …: imagemill samplers lists them all"
