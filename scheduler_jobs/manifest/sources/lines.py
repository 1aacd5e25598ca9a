"""A manifest's bytes as a stream of text lines of limited length.

At most `max_line_bytes` of the file are in memory, whatever it contains. It is unpacked while it
is read, and a longer line is skipped.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

from imagemill.db.utf8 import UTF8_TEXT, not_utf8
from imagemill.scheduler_jobs.manifest.problems import Broken

_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
LONE_RETURN = ("a lone carriage return", "LF or CR LF at the end of every line")
"""What was found and what is allowed in a line that an old Macintosh's file may have."""
_BUFFER_BYTES = 1 << 16
_SKIP_BYTES = 1 << 26
"""The most bytes of a long line that are skipped before the file is given up. This is the cost of a
bomb."""
_BLANK_LINES = 100_000
"""The most blank lines in a row that are skipped before the file is given up."""


# Not frozen: every row needs one, and a frozen one takes six times as long to make.
@dataclass(slots=True)
class Line:
    """One line without its line end. `bad` (found, allowed) says why it has no usable text.

    The text of a bad line only says where its quotes are: a table's cell that they open goes on in
    the next line. Bytes that are not UTF-8 are U+FFFD there, and of a line that is too long there
    is one quote if it has an odd number of them.
    """

    number: int
    text: str
    bad: tuple[str, str] | None = None


def without_bom(head: bytes) -> bytes:
    """A file's first bytes without UTF-8 byte order marks.

    Raises:
        Broken: it is UTF-16.
    """
    if head.startswith(_UTF16_BOMS):
        raise Broken("UTF-16 text", UTF8_TEXT, line=1)
    # Some tools add a mark to a file that already has one.
    while head.startswith(_BOM):
        head = head.removeprefix(_BOM)
    return head


def read_lines(stream: io.BufferedReader, *, max_line_bytes: int) -> Iterator[Line]:
    """Every line, numbered from 1; a blank line has the text "".

    Lines end with LF or CR LF. A line that is too long, is not UTF-8 or has a NUL is yielded as a
    bad line, and the next line is read as usual.

    Raises:
        Broken: UTF-16, a damaged stream, a line that seems never to end, far too many blank lines.
    """
    # The limit is for the text. The line end may have two bytes more, and one byte more shows that
    # a line is too long.
    ask = max_line_bytes + 3
    number = offset = blanks = 0
    while raw := stream.readline(ask):
        number += 1
        start, offset = offset, offset + len(raw)
        if number == 1:
            body = without_bom(raw)
            start += len(raw) - len(body)
            raw = body
        body = raw.removesuffix(b"\n").removesuffix(b"\r")
        if len(body) > max_line_bytes:
            quotes = raw.count(b'"')
            if not raw.endswith(b"\n"):
                skipped, more = _skip_line(stream, number)
                offset, quotes = offset + skipped, quotes + more
            yield Line(number, '"' * (quotes % 2), too_long(max_line_bytes))
            continue
        blanks = 0 if body.strip() else blanks + 1
        if blanks > _BLANK_LINES:
            raise Broken(f"more than {_BLANK_LINES:,} blank lines in a row", "rows", line=number)
        yield _decoded(number, body, start)


def too_long(max_line_bytes: int) -> tuple[str, str]:
    """What to say of a line that is too long."""
    return (
        f"a line of more than {max_line_bytes:,} bytes",
        "a shorter line (IMAGEMILL_MAX_LINE_BYTES)",
    )


def _skip_line(stream: io.BufferedReader, number: int) -> tuple[int, int]:
    """Skip the rest of a line; how many bytes it had, and how many quotes."""
    skipped = quotes = 0
    while chunk := stream.readline(_BUFFER_BYTES):
        skipped += len(chunk)
        quotes += chunk.count(b'"')
        if chunk.endswith(b"\n"):
            break
        if skipped > _SKIP_BYTES:
            raise Broken(
                f"a line of more than {_SKIP_BYTES:,} bytes",
                "a manifest with one row a line",
                line=number,
            )
    return skipped, quotes


def _decoded(number: int, body: bytes, offset: int) -> Line:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        bad = not_utf8(error, line=number, before=offset)
        return Line(number, body.decode(errors="replace"), bad)
    if "\0" in text:
        return Line(number, text, ("a NUL byte", "text without NUL bytes"))
    return Line(number, text)
