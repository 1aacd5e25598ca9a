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
from typing import Any, NamedTuple

from imagemill.db.errors import UsageError
from imagemill.db.queries.pictures.image_reports import ImageReport

DEFAULT_TEMPLATE = "{row}-{prompt}-s{sample}"

_PROMPT_CHARACTERS = 48
_VALUE_CHARACTERS = 80
_MOST_BYTES = 140
"""The most bytes of one part of a name. Encrypted folders allow 143, and a number may follow."""

_MOST_PARTS = 8
_MARKS = "_.,=+-"
_ROW_DIGITS = 4

_FORM = re.compile(r"0?[1-9]?[0-9]?(\.[0-9])?[dfg]?")
"""How a number may be written: `03`, `.2f`."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)
"""Names that Windows takes for a device, with any suffix."""

_ZERO_WIDTH_SPACE = "\u200b"
"""It is invisible, but it separates words."""

_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
"""Letters and marks that nobody sees: Unicode's `Default_Ignorable_Code_Point`, without the
format characters (category Cf)."""


def file_suffix(image_format: str) -> str:
    """The suffix of a file in this format, without a dot."""
    return "jpg" if image_format == "jpeg" else image_format


_FIELDS: Mapping[str, Callable[[ImageReport], object]] = MappingProxyType(
    {
        "row": lambda image: image.row,
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
        "prompt": lambda image: slug(image.prompt),
        "negative_prompt": lambda image: slug(image.negative_prompt),
        "format": lambda image: image.format,
        "ext": lambda image: file_suffix(image.format),
    }
)


class NameTemplate:
    """A name with places: `{row}-{prompt}`, or with folders: `{model}/{seed:010}`.

    A place may say how a number is written, as Python's format strings do.
    """

    def __init__(self, template: str, *, option: str) -> None:
        """A `UsageError` says what is wrong with the template; it names the `option`."""
        self._option = option
        self._parts = [_pieces(part, template, option) for part in template.split("/")]
        if len(self._parts) > _MOST_PARTS:
            raise UsageError(f"{option}: at most {_MOST_PARTS - 1} folders; it has more")

    @property
    def names(self) -> frozenset[str]:
        """The names in its places."""
        return frozenset(
            place.name for part in self._parts for _, place in part if place is not None
        )

    def stem(self, values: Mapping[str, object]) -> str:
        """The name without a suffix, `/` between its parts. What has no value is `none`."""
        return "/".join(_safe(self._filled(part, values)) for part in self._parts)

    def _filled(
        self, pieces: list[tuple[str, "_Place | None"]], values: Mapping[str, object]
    ) -> str:
        text = ""
        for literal, place in pieces:
            text += literal
            if place is not None:
                text += _plain(self._written(place, values.get(place.name)))
        return text

    def _written(self, place: "_Place", value: object) -> str:
        if value is None:
            return "none"
        try:
            return format(value, place.form)
        except (TypeError, ValueError):
            raise UsageError(
                f"{self._option}: {{{place.name}:{place.form}}} can't write {str(value)[:40]!r}"
            ) from None


class PictureNames:
    """Names the images of one job. Ask for all of them, in the order of their ids."""

    def __init__(self, template: str = DEFAULT_TEMPLATE, *, rows: int = 0) -> None:
        """`rows` is the most rows there may be; row numbers get as many digits as that needs.

        Raises `UsageError` if the template can't be used.
        """
        self._digits = max(_ROW_DIGITS, len(str(rows)))
        self._template = NameTemplate(template, option="--picture-name")
        self._taken: set[str] = set()

    @property
    def columns(self) -> Collection[str]:
        """The names in the template that have to be columns of the manifest."""
        return self._template.names - _FIELDS.keys()

    def name(self, image: ImageReport) -> str:
        """The image's path with its suffix, relative to the folder of pictures, with `/`."""
        values = {**image.extras, **{name: value(image) for name, value in _FIELDS.items()}}
        values["row"] = f"{image.row:0{self._digits}}"
        suffix = f".{file_suffix(image.format)}"
        stem = self._template.stem(values).removesuffix(suffix)
        name, number = f"{stem}{suffix}", 1
        while folded(name) in self._taken:
            number += 1
            name = f"{stem}-{number}{suffix}"
        self._taken.add(folded(name))
        return name


def check_columns(names: PictureNames, extras: Mapping[str, Any]) -> None:
    """Raise `UsageError` if the template names a column that no row has."""
    for name in sorted(set(names.columns) - set(extras)):
        known = ", ".join([*_FIELDS, *sorted(extras)])
        raise UsageError(f"--picture-name: nothing is called {{{name}}}; there are {known}")


class _Place(NamedTuple):
    name: str
    form: str


def _pieces(part: str, template: str, option: str) -> list[tuple[str, _Place | None]]:
    try:
        found = list(Formatter().parse(part))
    except ValueError as error:
        raise UsageError(f"{option} {template!r}: {error}") from None
    pieces: list[tuple[str, _Place | None]] = []
    for literal, name, form, conversion in found:
        if name is None:
            pieces.append((literal, None))
            continue
        if not name or conversion or not _FORM.fullmatch(form or ""):
            raise UsageError(
                f"{option} {template!r}: a place is {{name}} or, for a number, {{name:05}}"
            )
        pieces.append((literal, _Place(name, form or "")))
    if not pieces:
        raise UsageError(f"{option} {template!r}: a part of it is empty")
    return pieces


def slug(text: str, length: int = _PROMPT_CHARACTERS) -> str:
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
    """The text with one `-` for each run of characters that are no letter, digit or mark.

    Characters that nobody sees are left out: an emoji's variation selector would be a letter.
    """
    kept = (_letter(c, marks) for c in text if not _is_invisible(c))
    return re.sub("--+", "-", "".join(kept))


def _letter(character: str, marks: str) -> str:
    known = character in marks or unicodedata.category(character)[0] in "LNM"
    return character if known else "-"


def _is_invisible(character: str) -> bool:
    if character.isascii() or character == _ZERO_WIDTH_SPACE:
        return False
    return unicodedata.category(character) == "Cf" or _IGNORABLE.match(character) is not None


def folded(name: str) -> str:
    """The name as a file system takes it that does not tell `A` from `a`."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())
