"""Labels of jobs and of workers as people write them: `team=faces`, or `faces` alone."""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType

from imagemill.db.errors import SettingsError, UsageError
from imagemill.db.tables import LABEL_KEY_CHARACTERS, LABEL_VALUE_CHARACTERS

_KEY = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._/-]{{0,{LABEL_KEY_CHARACTERS - 1}}}")


def read_labels(texts: Iterable[str]) -> dict[str, str]:
    """Labels by key. Raises `UsageError` for a bad one, and for a key with two values."""
    found: dict[str, str] = {}
    for text in texts:
        key, value = read_label(text)
        if found.setdefault(key, value or "") != (value or ""):
            raise UsageError(f"label {key} has two values: {found[key]!r} and {value or ''!r}")
    return found


def workers_labels(text: str) -> dict[str, str]:
    """The labels of the setting `labels`, with commas between them. Raises `SettingsError`."""
    try:
        return read_labels(each for each in text.split(",") if each.strip())
    except UsageError as error:
        raise SettingsError(f"IMAGEMILL_LABELS: {error}") from None


def read_label(text: str) -> tuple[str, str | None]:
    """The key and the value of one label; None where there is no `=`. Raises `UsageError`."""
    key, equals, value = text.partition("=")
    if _KEY.fullmatch(key) is None:
        raise UsageError(
            f"label {text[:80]!r}: a key is a letter or digit, then letters, digits, '.', '_', '/' "
            f"and '-', at most {LABEL_KEY_CHARACTERS} characters"
        )
    if len(value) > LABEL_VALUE_CHARACTERS or not value.isprintable():
        raise UsageError(
            f"label {key}: a value is at most {LABEL_VALUE_CHARACTERS} characters on one line"
        )
    return key, value if equals else None


def label_text(labels: Mapping[str, str]) -> str:
    """The labels as people write them, with a space between them."""
    return " ".join(f"{key}={value}" if value else key for key, value in labels.items())


def has_all(labels: Mapping[str, str], needs: Mapping[str, str]) -> bool:
    """Whether the labels have all that is needed; an empty value is any."""
    return all(key in labels and value in {"", labels[key]} for key, value in needs.items())


def labels_as_text(labels: Mapping[str, str]) -> str:
    """Labels as a column of text keeps them: JSON, or nothing where there are none."""
    return json.dumps(labels, sort_keys=True) if labels else ""


@cache
def labels_of(text: str) -> Mapping[str, str]:
    """The labels in such a column."""
    found: dict[str, str] = json.loads(text) if text else {}
    return MappingProxyType(found)
