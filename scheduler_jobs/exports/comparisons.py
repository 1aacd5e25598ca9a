"""Comparisons of a condition that can never be true, or compare nothing, and what was meant.

In SQL each of them is allowed, and takes no image.
"""

import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, get_args

from sqlglot import expressions as sql

from imagemill.db.samplers.names import find_sampler
from imagemill.db.specs import ImageFormat
from imagemill.db.states import ImageState, Outcome

_NUMBERS = frozenset(
    {"image_id", "job_id", "row_number", "sample_index", "seed", "width", "height", "steps"}
    | {"guidance_scale", "size_bytes", "seconds", "generation"}
)
"""Our columns that hold a number."""

_WORDS: Mapping[str, Collection[str]] = MappingProxyType(
    {
        "state": tuple(map(str, ImageState)),
        "outcome": tuple(map(str, Outcome)),
        "format": get_args(ImageFormat),
    }
)
"""Our columns that hold one of a few words."""

_TEXTS = frozenset({"tag", "prompt", "negative_prompt", "model", "sampler", "job_name", "row_key"})

_LIST = "tags"


def flaws(kind: type[sql.Expr], left: sql.Expr, right: sql.Expr) -> Iterator[str]:
    """Why a comparison can't be meant as it stands; mostly nothing."""
    left, right = left.unnest(), right.unnest()
    if isinstance(left, sql.Null) or isinstance(right, sql.Null):
        asked = left if isinstance(right, sql.Null) else right
        no = "not " if kind is sql.NEQ else ""
        yield f"nothing compares with null; write {_shown(asked)} is {no}null"
    elif not isinstance(left, sql.Column) and not isinstance(right, sql.Column):
        yield f"{_shown(left)} and {_shown(right)} are no columns; a column stands without quotes"
    elif left == right:
        yield f"{_shown(left)} is compared with itself"
    else:
        yield from _column_flaws(kind, left, right)
        yield from _column_flaws(kind, right, left)


def range_flaws(low: sql.Expr, high: sql.Expr) -> Iterator[str]:
    """Why nothing can lie between two values."""
    numbers = [_number(each.unnest()) for each in (low, high)]
    if None not in numbers and numbers[0] > numbers[1]:  # type: ignore[operator]  # no None here
        yield f"nothing is between {_shown(low)} and {_shown(high)}; the smaller one comes first"


def idle_column(column: sql.Column) -> str | None:
    """Why a column of ours is no condition alone; None for one of the manifest."""
    name = str(column.this.name)
    if column.table or name not in {*_NUMBERS, *_WORDS, _LIST, *_TEXTS}:
        return None
    return f"{name} alone is no condition; compare it, or write {name} is not null"


def _column_flaws(kind: type[sql.Expr], column: sql.Expr, value: sql.Expr) -> Iterator[str]:
    if not isinstance(column, sql.Column) or column.table or isinstance(value, sql.Column):
        return
    name = str(column.this.name)
    if name == _LIST:
        sign = "<>" if kind is sql.NEQ else "="
        yield f"{name} holds all tags of an image; write tag {sign} {_shown(value)}"
    if not isinstance(value, sql.Literal) or not value.is_string:
        return
    text = str(value.this)
    if name in _NUMBERS and not _is_number(text):
        yield f"{name} is a number, and {text!r} is none"
    if kind not in {sql.EQ, sql.NEQ}:
        return
    words = _WORDS.get(name, ())
    if words and text not in words:
        near = difflib.get_close_matches(text.casefold(), words, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        yield f"{name} is never {text!r}; it is one of {', '.join(words)}{meant}"
    if name == "sampler" and (sampler := find_sampler(text)) is not None and sampler.name != text:
        yield f"the sampler {text!r} is called {sampler.name!r} here"


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def _number(node: sql.Expr) -> float | None:
    sign = -1 if isinstance(node, sql.Neg) else 1
    value: Any = node.this if isinstance(node, sql.Neg) else node
    if not isinstance(value, sql.Literal) or value.is_string:
        return None
    return sign * float(value.this)


def _shown(node: sql.Expr) -> str:
    return node.sql(dialect="postgres")[:60]
