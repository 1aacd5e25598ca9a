"""The shape of a JSON manifest: lines, an array, one object, or objects under keys."""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from imagemill.scheduler_jobs.manifest.columns.fields import PROMPT, PROMPT_FALLBACKS
from imagemill.scheduler_jobs.manifest.columns.foreign_names import folded
from imagemill.scheduler_jobs.manifest.columns.layout import field_of
from imagemill.scheduler_jobs.manifest.problems import Broken, shown

_ARRAY = re.compile(r"\s*\[\s*(?:[{\]]|\"(?:[^\"\\\n]|\\.)*\"\s*[,\]])")
_OBJECT = re.compile(r'\s*\{\s*(?:\}|"(?:[^"\\\n]|\\.)*"\s*:)')
_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"[\s,]*")
_SHOWN_KEYS = 5
_NODE = (re.compile(r'"class_type"\s*:\s*"'), re.compile(r'"inputs"\s*:\s*\{'))


def looks_like_json(text: str) -> bool:
    """Whether a text begins like JSON, and not like a prompt with brackets."""
    return bool(_ARRAY.match(text) or _OBJECT.match(text))


def json_format(text: str, *, lines: bool = False) -> Literal["json", "jsonl"]:
    """Whether JSON that begins like this is one value, or one value on each line.

    `lines` says that its suffix means one value on each line; then a value may be a list too.

    Raises:
        Broken: an object that is neither a row nor rows under keys, or no JSON at all.
    """
    start = text.lstrip()
    if start.startswith("["):
        first, _, rest = start.partition("\n")
        return "jsonl" if lines and rest.strip() and _is_value(first) else "json"
    if not start.startswith("{"):
        if start.startswith('"'):
            return "jsonl"
        raise Broken(
            f"no JSON: it begins with {shown(start.partition(chr(10))[0][:40])}",
            "an array or objects, or --format for another format",
            line=1,
        )
    first, _, rest = start.partition("\n")
    if rest.strip() and (_is_value(first) or not first.rstrip().endswith(("{", ",", "[", ":"))):
        return "jsonl"
    if lines and not rest.strip() and not _is_keyed(start):
        return "jsonl"
    return "json"


def _is_value(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def is_one_row(text: str) -> bool:
    """Whether the object that a JSON manifest begins with is a row itself."""
    return not _is_keyed(text)


def check_shape(text: str) -> None:
    """Raise `Broken`, with one line, for an object that has no rows."""
    members = list(_members(text))
    if {"nodes", "links"} <= {key for key, _ in members} or _is_workflow(text):
        raise Broken("a ComfyUI workflow", "rows; docs/moving.md makes one of each workflow")
    if _has_prompt(members):
        by_columns = [key for key, value in members if _is_prompt(key) and value is dict]
        if by_columns:
            raise Broken(
                f"one object with a table's columns, {shown(by_columns[0])} among them",
                "objects in an array or one a line; pandas: to_json(orient='records')",
            )
        return
    if members and all(value is dict for _, value in members):
        return
    keys = ", ".join(shown(key) for key, _ in members[:_SHOWN_KEYS])
    coco = {"images", "annotations"} <= {key for key, _ in members}
    what = "a COCO annotation file" if coco else "one object"
    raise Broken(
        f"{what} with the keys {keys}" if keys else "an object without keys",
        "an array of objects or texts, an object a line, or objects under keys",
    )


def _is_workflow(text: str) -> bool:
    """Whether an object holds the nodes of a workflow in ComfyUI's API format."""
    return all(pattern.search(text) for pattern in _NODE)


def _is_keyed(text: str) -> bool:
    members = list(_members(text))
    return not _has_prompt(members) and bool(members) and all(v is dict for _, v in members)


def _has_prompt(members: list[tuple[str, Any]]) -> bool:
    return any(_is_prompt(key) for key, _ in members)


def _is_prompt(key: str) -> bool:
    return field_of(key) == PROMPT or folded(key) in PROMPT_FALLBACKS


def _members(text: str) -> Iterator[tuple[str, Any]]:
    """The keys of an object and the types of their values, as far as this beginning reaches."""
    at = text.find("{") + 1
    while True:
        at = _end(_BLANKS, text, at)
        try:
            key, at = _DECODER.raw_decode(text, at)
            if not isinstance(key, str):
                return
            at = text.index(":", at) + 1
            at = _end(_BLANKS, text, at)
            start = text[at : at + 1]
        except (ValueError, RecursionError):
            return
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            if start in {"{", "["}:
                yield key, dict if start == "{" else list
            return
        yield key, type(value)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at
