"""What is wrong with a value of the registry file, in the words of its documents.

pydantic's own words name its types and its classes, and no key that was meant.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

LICENSE = r"^[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}$"
REVISION = r"^[0-9a-f]{40}$"

_SHOWN_CHARACTERS = 60

_PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        LICENSE: "expected one word, such as apache-2.0",
        REVISION: "expected a commit's 40 hexadecimal digits",
    }
)

_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "string": "a text",
        "path": "a path, as a text",
        "int": "a whole number",
        "float": "a number",
        "finite": "a finite number",
        "bool": "true or false",
        "dict": "a table",
        "model": "a table",
    }
)
"""What a value should be, by the first word of the type of pydantic's error."""

_SAID: Mapping[str, Callable[[Mapping[str, Any]], str]] = MappingProxyType(
    {
        "literal_error": lambda about: f"expected {about['expected']}",
        "greater_than": lambda about: f"expected more than {about['gt']:g}",
        "greater_than_equal": lambda about: f"expected at least {about['ge']:g}",
        "less_than_equal": lambda about: f"expected at most {about['le']:g}",
        "string_too_short": lambda about: "an empty text",
        "string_pattern_mismatch": lambda about: _PATTERNS[about["pattern"]],
    }
)

_ALTERNATIVES = frozenset({"str", "dict[str,str]"})
"""What pydantic adds to the place of a value that may be one or the other."""

_WITHOUT_KIND = frozenset({"union_tag_invalid", "union_tag_not_found"})
"""Errors of a table whose `kind` says which keys it has."""


def first_problem(error: ValidationError, tables: Mapping[str, type[BaseModel]]) -> str:
    """The first thing that is wrong with a file; an unknown key before one that is missing.

    `tables` are the tables that may be around it: by a kind of scorer, by the key of a table or of
    a table of tables, and by "" the one around all.
    """
    unknown_first = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    return _said_of(unknown_first[0], tables)


def _said_of(error: ErrorDetails, tables: Mapping[str, type[BaseModel]]) -> str:
    """Where a value is, what is wrong with it, and the value, unless it is a table or not there."""
    inner = [str(part) for part in error["loc"] if part not in _ALTERNATIVES]
    kind, about = error["type"], error.get("ctx", {})
    # The kind of a scorer is no key of the file, but pydantic says it after the scorer's name.
    told = inner[:2] + inner[3:] if inner[0] == "scorers" else inner
    if kind in _WITHOUT_KIND:
        told = [*told, "kind"]
    where = ".".join(part or "''" for part in told)
    if kind == "union_tag_not_found":
        return f"{where} is missing; it is one of {', '.join(_kinds_of(tables))}"
    if kind == "union_tag_invalid":
        return f"{where}: expected one of {about['expected_tags']}; found {about['tag']!r}"
    if kind == "missing":
        return f"{where} is missing"
    if kind == "extra_forbidden":
        return f"{where}: {_unknown(inner, tables)}"
    said = _words(error, about)
    found = error["input"]
    return f"{where}: {said}" + (
        "" if isinstance(found, Mapping) else f"; found {repr(found)[:_SHOWN_CHARACTERS]}"
    )


def _words(error: ErrorDetails, about: Mapping[str, Any]) -> str:
    if error["type"] in _SAID:
        return _SAID[error["type"]](about)
    expected = _KINDS.get(error["type"].partition("_")[0])
    return f"expected {expected}" if expected else error["msg"].removeprefix("Value error, ")


def _unknown(inner: Sequence[str], tables: Mapping[str, type[BaseModel]]) -> str:
    """That a key is not known, and which ones its table has."""
    around = next((tables[part] for part in reversed(inner[:-1]) if part in tables), tables[""])
    known = list(around.model_fields)
    near = difflib.get_close_matches(inner[-1], known, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"no such key; allowed: {', '.join(known)}{meant}"


def _kinds_of(tables: Mapping[str, type[BaseModel]]) -> list[str]:
    """The names of the tables that have theirs as their `kind`."""
    kinds = {name: table.model_fields.get("kind") for name, table in tables.items()}
    return [name for name, kind in kinds.items() if kind and get_args(kind.annotation) == (name,)]
