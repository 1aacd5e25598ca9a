"""Readable names for pictures: a template over the row's columns, safe on every file system.

A name depends only on what the database says, so the same job gets the same names in every run.
Values become letters, digits and a few marks. Two images never get the same name, even on a file
system that does not tell `A` from `a`.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from string import Formatter
from types import MappingProxyType
from typing import Any

from imagemill.db.errors import UsageError
from imagemill.db.queries.image_reports import ImageReport

DEFAULT_TEMPLATE = "{row}-{prompt}-s{sample}"

_PROMPT_CHARACTERS = 48
_VALUE_CHARACTERS = 80
_MOST_BYTES = 140
"""The most bytes of one part of a name. Encrypted folders allow 143, and a number may follow."""

_MOST_PARTS = 8
_MARKS = "_.,=+-"
_ROW, _ROW_DIGITS = "row", 4

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)
"""Names that Windows takes for a device, with any suffix."""


def _suffix(image: ImageReport) -> str:
    return "jpg" if image.format == "jpeg" else image.format


_FIELDS: Mapping[str, Callable[[ImageReport], object]] = MappingProxyType(
    {
        "key": lambda image: image.key or image.row,
        "sample": lambda image: image.sample,
        "image": lambda image: image.id,
        "job": lambda image: image.job_id,
        "model": lambda image: image.model,
        "seed": lambda image: image.seed,
        "width": lambda image: image.width,
        "height": lambda image: image.height,
        "size": lambda image: f"{image.width}x{image.height}",
        "steps": lambda image: image.steps,
        "guidance": lambda image: f"{image.guidance_scale:g}",
        "guidance_scale": lambda image: f"{image.guidance_scale:g}",
        "sampler": lambda image: image.sampler,
        "prompt": lambda image: _slug(image.prompt, _PROMPT_CHARACTERS),
        "negative_prompt": lambda image: _slug(image.negative_prompt, _PROMPT_CHARACTERS),
        "format": lambda image: image.format,
        "ext": _suffix,
    }
)


class PictureNames:
    """Names the images of one job. Ask for all of them, in the order of their ids."""

    def __init__(self, template: str = DEFAULT_TEMPLATE, *, rows: int = 0) -> None:
        """`rows` is the most rows there may be; row numbers get as many digits as that needs.

        Raises `UsageError` if the template can't be used.
        """
        self._digits = max(_ROW_DIGITS, len(str(rows)))
        self._parts = [_pieces(part, template) for part in template.split("/")]
        if len(self._parts) > _MOST_PARTS:
            raise UsageError(f"--picture-name: at most {_MOST_PARTS - 1} folders; it has more")
        self._taken: set[str] = set()

    @property
    def columns(self) -> Collection[str]:
        """The names in the template that have to be columns of the manifest."""
        names = {name for part in self._parts for _, name in part if name is not None}
        return names - {_ROW, *_FIELDS}

    def name(self, image: ImageReport) -> str:
        """The image's path with its suffix, relative to the folder of pictures, with `/`."""
        parts = [_safe(self._filled(part, image)) for part in self._parts]
        suffix = f".{_suffix(image)}"
        stem = "/".join(parts).removesuffix(suffix)
        name, number = f"{stem}{suffix}", 1
        while _folded(name) in self._taken:
            number += 1
            name = f"{stem}-{number}{suffix}"
        self._taken.add(_folded(name))
        return name

    def _filled(self, pieces: list[tuple[str, str | None]], image: ImageReport) -> str:
        text = ""
        for literal, name in pieces:
            text += literal
            if name is not None:
                text += _plain(self._value(name, image))
        return text

    def _value(self, name: str, image: ImageReport) -> str:
        if name == _ROW:
            return f"{image.row:0{self._digits}}"
        if name in _FIELDS:
            return str(_FIELDS[name](image))
        found = image.extras.get(name)
        return "none" if found is None else str(found)


def check_columns(names: PictureNames, extras: Mapping[str, Any]) -> None:
    """Raise `UsageError` if the template names a column that no row has."""
    for name in sorted(set(names.columns) - set(extras)):
        known = ", ".join([_ROW, *_FIELDS, *sorted(extras)])
        raise UsageError(f"--picture-name: nothing is called {{{name}}}; there are {known}")


def _pieces(part: str, template: str) -> list[tuple[str, str | None]]:
    try:
        found = list(Formatter().parse(part))
    except ValueError as error:
        raise UsageError(f"--picture-name {template!r}: {error}") from None
    pieces = []
    for literal, name, form, conversion in found:
        if name is not None and (not name or form or conversion):
            raise UsageError(
                f"--picture-name {template!r}: a place is {{name}}, with nothing else in the braces"
            )
        pieces.append((literal, name))
    if not pieces:
        raise UsageError(f"--picture-name {template!r}: a part of it is empty")
    return pieces


def _slug(text: str, length: int) -> str:
    """A text in lower case, with `-` between its words, cut at the end of a word."""
    words = _only_letters(unicodedata.normalize("NFKC", text).lower(), "").strip("-")
    if len(words) <= length:
        return words or "untitled"
    return words[: length + 1].rpartition("-")[0] or words[:length]


def _plain(value: str) -> str:
    """A value in which `-` replaces every character that a name should not have."""
    return _only_letters(unicodedata.normalize("NFC", value), _MARKS)[:_VALUE_CHARACTERS]


def _safe(part: str) -> str:
    """A part of a name that every file system accepts: no marks at its ends, not too long."""
    text = _only_letters(unicodedata.normalize("NFC", part), _MARKS + " ")
    while len(text.encode("utf-8")) > _MOST_BYTES:
        text = text[:-1]
    text = text.lstrip(" .-").rstrip(" .") or "untitled"
    return f"_{text}" if _RESERVED.match(text) else text


def _only_letters(text: str, marks: str) -> str:
    """The text with one `-` for each run of characters that are no letter, digit or mark."""
    kept = (c if c in marks or unicodedata.category(c)[0] in "LNM" else "-" for c in text)
    return re.sub("--+", "-", "".join(kept))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())
