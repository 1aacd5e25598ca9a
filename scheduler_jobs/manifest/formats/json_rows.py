"""JSON Lines, one JSON array of objects or texts, and objects under keys, all read as a stream.

JSON is read strictly: no key comes twice, and nothing follows the value. `values` refuses NaN.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from io import BufferedReader
from typing import Any, NoReturn

from imagemill.db.process.logs import printable
from imagemill.db.utf8 import not_utf8
from imagemill.scheduler_jobs.manifest.columns.fields import KEY, PROMPT
from imagemill.scheduler_jobs.manifest.columns.foreign_names import folded
from imagemill.scheduler_jobs.manifest.formats.batches import from_batch
from imagemill.scheduler_jobs.manifest.problems import BadValue, Broken, shown
from imagemill.scheduler_jobs.manifest.raw_rows import JSON, BadRow, RawRow
from imagemill.scheduler_jobs.manifest.sources.lines import Line, without_bom
from imagemill.scheduler_jobs.manifest.values import unique_keys

_CHUNK_BYTES = 1 << 16
_SKIP_CHARACTERS = 1 << 24
"""The most characters of a long element that are skipped before the file is given up."""
_DEEPEST = 10_000
"""The open brackets at which a file is given up: ten times the limit of Python's JSON reader."""
_SPACE = re.compile(r"[ \t\r\n]*")
_LINE_BREAK = re.compile(r"[ \t]*[\r\n]+[ \t]*")
_STRUCTURE = re.compile(r'["{}\[\],]')
_IN_STRING = re.compile(r'["\\]')
_FLAT = re.compile(r'(?:[^"{}\[\]]+|"[^"\\]*")*')
"""The part of an object that can be skipped at once: everything except brackets and escapes.
Nothing may follow the repetition, or the expression would backtrack for a very long time. A
possessive quantifier would prevent that, but these are broken before Python 3.11.5."""
_DEEPEST_OBJECT = 500
"""The nesting at which a row is refused before it is read. It is below the limit of the JSON reader
in every Python version, so that all versions give the same result."""
_NESTING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[{}\[\]]', re.DOTALL)
"""A string, closed or not, or a bracket outside of strings."""


def read_json_lines(lines: Iterable[Line]) -> Iterator[RawRow | BadRow]:
    """The rows of a JSON Lines file; blank lines are skipped."""
    number = 0
    for line in lines:
        if line.bad is None and not line.text.strip():
            continue
        number += 1
        if line.bad is not None:
            found, allowed = line.bad
            yield BadRow(number=number, line=line.number, found=found, allowed=allowed)
        else:
            yield _row(line.text, number, line.number)


def read_json_array(stream: BufferedReader, *, max_line_bytes: int) -> Iterator[RawRow | BadRow]:
    """The elements of a JSON array of objects. Each has the same limit as a line.

    Raises:
        Broken: not an array of objects from `[` to the file's end, or an empty one.
    """
    elements = _Elements(stream, max_line_bytes)
    yield from _element_rows(elements, max_line_bytes)


def read_json_object(stream: BufferedReader, *, max_line_bytes: int) -> Iterator[RawRow | BadRow]:
    """The objects under an object's keys. The key becomes the row's `id`.

    Raises:
        Broken: not an object of objects from `{` to the file's end, or an empty one.
    """
    yield from _element_rows(_Elements(stream, max_line_bytes, keyed=True), max_line_bytes)


def read_one_object(stream: BufferedReader, *, max_line_bytes: int) -> Iterator[RawRow | BadRow]:
    """The only object of a file, as its only row.

    Raises:
        Broken: it is longer than a line may be, or not UTF-8.
    """
    body = without_bom(stream.read(max_line_bytes + 1))
    if len(body) > max_line_bytes:
        raise Broken(
            f"one object of more than {max_line_bytes:,} bytes",
            "a shorter one (IMAGEMILL_MAX_LINE_BYTES)",
        )
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise Broken(*not_utf8(error, line=line), line=line) from None
    yield _row(text.strip(), 1, 1)


def _element_rows(elements: "_Elements", max_line_bytes: int) -> Iterator[RawRow | BadRow]:
    number = 0
    texts = False
    for line, text in elements:
        number += 1
        if text is None:
            yield BadRow(
                number=number,
                line=line,
                found=f"an element of more than {max_line_bytes:,} bytes",
                allowed="a shorter one (IMAGEMILL_MAX_LINE_BYTES)",
            )
            continue
        if number == 1 and elements.key is None:
            texts = text.startswith('"')
            if not texts and not text.startswith("{"):
                raise Broken(
                    f"an array that begins with {printable(text[:40])}",
                    "an array of objects or of texts",
                    line=line,
                )
        row = _text_row(text, number, line) if texts else _row(text, number, line)
        if isinstance(row, RawRow) and elements.key is not None:
            cells = row.cells
            # If a row has an id of its own, the key is kept as an extra.
            name = KEY if KEY not in map(folded, cells) else "key"
            row = replace(row, cells={name: elements.key, **cells})
        yield row
    if not number:
        raise Broken("an empty array", "at least one row")


def _text_row(text: str, number: int, line: int) -> RawRow | BadRow:
    try:
        value = _DECODER.decode(text)
    except ValueError:
        value = None
    if not isinstance(value, str):
        return BadRow(number=number, line=line, found=shown(text), allowed="a text, as the first")
    return RawRow(number=number, line=line, verbatim=text, cells={PROMPT: value})


def parse_object(text: str) -> dict[str, JSON]:
    """A JSON object. Raises `BadValue` if the text is anything else or has a key twice."""
    if _nesting(text) > _DEEPEST_OBJECT:
        raise BadValue("JSON nested too deeply", "a plain JSON object")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        found = f"not JSON: {error.msg[:1].lower()}{error.msg[1:]} at character {error.pos + 1}"
        raise BadValue(found, "a JSON object") from None
    except RecursionError:
        raise BadValue("JSON nested too deeply", "a plain JSON object") from None
    except BadValue:
        raise
    except ValueError:  # an integer of thousands of digits
        raise BadValue("a number of thousands of digits", "one of fewer digits") from None
    if not isinstance(value, dict):
        raise BadValue(f"{_kind(value)} {shown(value)}", "a JSON object")
    return value


def _nesting(text: str) -> int:
    """The depth of a text's brackets; 0 if they are too few to matter."""
    deepest = depth = 0
    if text.count("[") + text.count("{") > _DEEPEST_OBJECT:
        for part in _NESTING.finditer(text):
            if part[0] in "{[":
                depth += 1
                deepest = max(deepest, depth)
            elif part[0] in "}]":
                depth -= 1
    return deepest


def _row(text: str, number: int, line: int) -> RawRow | BadRow:
    try:
        cells = from_batch(parse_object(text))
        # In valid JSON, line breaks come only between tokens. So this changes no value.
        verbatim = _LINE_BREAK.sub(" ", text) if "\n" in text or "\r" in text else text
        return RawRow(number=number, line=line, verbatim=verbatim, cells=cells)
    except BadValue as bad:
        return BadRow(number=number, line=line, found=bad.found, allowed=bad.allowed)


# NaN and Infinity are read here. They are refused later, when their column is known.
_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "a truth value", type(None): "nothing,"}
    return kinds.get(type(value), "a number")


class _Elements:
    """Splits an array's text into its elements.

    It looks at brackets and strings only. So an error in an element does not affect the others.
    Yields each element's first line and its text, which is None if it is too long.
    """

    def __init__(self, stream: BufferedReader, max_line_bytes: int, *, keyed: bool = False) -> None:
        self._stream = stream
        self._signs = ("{", "}") if keyed else ("[", "]")
        self.key: str | None = None
        self._most = max_line_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._line = 1
        self._bytes = 0
        self._end: Broken | None = None

    def __iter__(self) -> Iterator[tuple[int, str | None]]:
        opening, closing = self._signs
        if self._next_sign() != opening:
            self._broken(f"no {opening} at the beginning", "a JSON array of objects")
        self._advance(self._at + 1)
        sign = self._next_sign()
        while sign != closing:
            if opening == "{" and sign == '"':
                self.key = self._key()
                sign = self._next_sign()
            if sign in {"", ",", "}", ":"}:
                found = (
                    f"{shown(sign)} where an object should be"
                    if sign
                    else "an array without its end"
                )
                allowed = f"a complete file: a closing {closing}"
                self._broken(found, "an object" if sign else allowed)
            line = self._line
            yield line, self._element()
            sign = self._next_sign()
            if sign == ",":
                self._advance(self._at + 1)
                sign = self._next_sign()
                if sign == closing:
                    self._broken(
                        f"a comma before the closing {closing}", "an object after every comma"
                    )
            elif sign != closing:
                found = f"{shown(sign)} after an object" if sign else "an array without its end"
                self._broken(found, f"a comma, or the closing {closing}")
        self._advance(self._at + 1)
        if sign := self._next_sign():
            self._broken(f"{shown(sign)} after the closing {closing}", "the end of the file")

    def _key(self) -> str:
        """Read a key and the colon after it."""
        parts = []
        escaped = False
        while True:
            if self._at >= len(self._text) and not self._more():
                self._broken("a key without its end", "a complete file")
            sign = self._advance(self._at + 1)
            parts.append(sign)
            if len(parts) > self._most:
                self._broken(f"a key of more than {self._most:,} characters", "a shorter key")
            if sign == '"' and len(parts) > 1 and not escaped:
                break
            escaped = sign == "\\" and not escaped
        if self._next_sign() != ":":
            self._broken("a key without a value", "a colon and an object")
        self._advance(self._at + 1)
        try:
            return str(json.loads("".join(parts)))
        except ValueError:
            self._broken(f"key {shown(''.join(parts))}", "a JSON text")

    def _broken(self, found: str, allowed: str) -> NoReturn:
        raise Broken(found, allowed, line=self._line)

    def _more(self) -> bool:
        """Replace the text, which was read, by the next chunk; return whether there was one."""
        self._advance(len(self._text))
        self._text, self._at = "", 0
        if self._end is not None:
            raise self._end
        while not self._text:
            chunk = self._stream.read(_CHUNK_BYTES)
            pending = len(self._decoder.getstate()[0])
            body = chunk if self._bytes else without_bom(chunk)
            start = self._bytes + len(chunk) - len(body) - pending
            self._bytes += len(chunk)
            try:
                self._text = self._decoder.decode(body, final=not chunk)
            except UnicodeDecodeError as error:
                # The text before the bad byte is still read.
                self._text = error.object[: error.start].decode()
                line = self._line + self._text.count("\n")
                found, allowed = not_utf8(error, line=line, before=start)
                self._end = Broken(found, allowed, line=line)
                if not self._text:
                    raise self._end from None
            if not chunk:
                break
        return bool(self._text)

    def _advance(self, end: int) -> str:
        """Consume the text up to `end`, count its lines, and return it."""
        taken = self._text[self._at : end]
        self._line += taken.count("\n")
        self._at = end
        return taken

    def _next_sign(self) -> str:
        """The next character that is not white space, without consuming it; "" at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self._advance(match.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _element(self) -> str | None:
        parts: list[str] = []
        size = 0
        scan = _Brackets()
        while True:
            end = scan.end_of_element(self._text, self._at)
            piece = self._advance(len(self._text) if end is None else end)
            size += len(piece)
            if size <= self._most:
                parts.append(piece)
            elif size > _SKIP_CHARACTERS:
                found = f"an element of more than {_SKIP_CHARACTERS:,} characters"
                self._broken(found, "an array of short objects")
            if end is not None:
                break
            if scan.depth > _DEEPEST:
                self._broken(f"more than {_DEEPEST:,} open brackets", "an array of flat objects")
            if not self._more():
                self._broken("an array that ends inside an element", "a complete file")
        if size > self._most:
            return None
        text = "".join(parts)
        return None if len(text.encode()) > self._most else text.strip()


class _Brackets:
    """Finds the end of an element that may go on over several pieces of text.

    `depth` is the number of open brackets.
    """

    def __init__(self) -> None:
        self.depth = 0
        self._in_string = False
        self._escaped = False

    def end_of_element(self, text: str, at: int) -> int | None:
        """The index after the element in `text`, searched from `at`; None if it goes on."""
        while at < len(text):
            if self._escaped:
                at, self._escaped = at + 1, False
                continue
            if self.depth and not self._in_string:
                flat = _FLAT.match(text, at)
                at = flat.end() if flat else at
            match = (_IN_STRING if self._in_string else _STRUCTURE).search(text, at)
            if match is None:
                return None
            sign, at = match[0], match.end()
            if sign == "\\":
                self._escaped = True
            elif sign == '"':
                self._in_string = not self._in_string
            elif sign in "{[":
                self.depth += 1
            elif self.depth == 0:
                # A comma or the array's own ] ends a bare value and does not belong to it.
                return match.start()
            elif sign != ",":
                self.depth -= 1
                if self.depth == 0:
                    return at
        return None
