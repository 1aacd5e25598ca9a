"""The Inspire Pack's prompt files: blocks of `positive:` and `negative:`, divided by `----`."""

import re
from collections.abc import Iterable, Iterator

from imagemill.scheduler_jobs.manifest.raw_rows import JSON, BadRow, RawRow
from imagemill.scheduler_jobs.manifest.sources.lines import LONE_RETURN, Line

_BEGIN = re.compile(r"^positive:", re.MULTILINE | re.IGNORECASE)
_PART = re.compile(r"(positive|negative):", re.IGNORECASE)
_END = re.compile(r"-{3,}")
_FIELDS = {"positive": "prompt", "negative": "negative_prompt"}


def is_blocks(beginning: str) -> bool:
    """Whether a text file has such blocks."""
    return _BEGIN.search(beginning) is not None


def read_blocks(lines: Iterable[Line], *, max_line_bytes: int) -> Iterator[RawRow | BadRow]:
    """A row for each block. A part may have several lines; the line breaks are kept."""
    block: list[Line] = []
    number = size = 0
    for line in lines:
        if line.bad is None and _END.fullmatch(line.text.strip()):
            if any(each.text.strip() or each.bad for each in block):
                number += 1
                yield _row(block, number, max_line_bytes if size > max_line_bytes else None)
            block, size = [], 0
            continue
        size += len(line.text) + 1
        if size <= max_line_bytes and (block or line.text.strip() or line.bad):
            block.append(line)
    if any(each.text.strip() or each.bad for each in block):
        yield _row(block, number + 1, max_line_bytes if size > max_line_bytes else None)


def _row(block: list[Line], number: int, most: int | None) -> RawRow | BadRow:
    first = block[0].number
    bad = next((line.bad for line in block if line.bad is not None), None)
    if most is not None:
        bad = (
            f"a block of more than {most:,} characters",
            "a shorter block (IMAGEMILL_MAX_LINE_BYTES)",
        )
    parts: dict[str, list[str]] = {}
    part: str | None = None
    for line in block:
        text = line.text.strip()
        if "\r" in text:
            bad = bad or LONE_RETURN
        match = _PART.match(text)
        if match:
            part = _FIELDS[match[1].lower()]
            if part in parts:
                bad = bad or (f"{match[0]} twice in one block", "---- between two blocks")
            parts[part] = []
            text = text[match.end() :]
        if part is not None:
            parts[part].append(text)
        elif text and not text.startswith(("#", "//")):
            bad = bad or ("a line before positive: or negative:", "positive: and a prompt")
    if bad is not None:
        return BadRow(number=number, line=first, found=bad[0], allowed=bad[1])
    cells: dict[str, JSON] = {name: "\n".join(text).strip() for name, text in parts.items()}
    if not cells:
        cells = {"prompt": ""}
    verbatim = "\n".join(line.text for line in block)
    return RawRow(number=number, line=first, verbatim=verbatim, cells=cells)
