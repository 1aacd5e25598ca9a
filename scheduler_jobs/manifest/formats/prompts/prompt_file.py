"""A file that is one prompt, as DPG-Bench has them: its name is the id."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from imagemill.db.utf8 import not_utf8
from imagemill.scheduler_jobs.manifest.formats.downloads import check_is_the_file
from imagemill.scheduler_jobs.manifest.formats.prompts.infotext import check_no_infotext
from imagemill.scheduler_jobs.manifest.raw_rows import BadRow, HeaderCheck, RawRow
from imagemill.scheduler_jobs.manifest.sources.lines import too_long, without_bom


def read_prompt_file(
    stream: IO[bytes], *, path: Path, check_header: HeaderCheck, max_line_bytes: int
) -> Iterator[RawRow | BadRow]:
    """The one row of a file: its whole text without the blanks around it.

    Raises:
        Broken: UTF-16, an HTML page and the like, or a picture's parameters with the prompt.
    """
    check_header(("id", "prompt"), None)
    body = stream.read(max_line_bytes + 1)
    if len(body) > max_line_bytes:
        found, allowed = too_long(max_line_bytes)
        yield BadRow(number=1, line=1, found=found, allowed=allowed)
        return
    try:
        text = without_bom(body).decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found, allowed = not_utf8(error, line=line)
        yield BadRow(number=1, line=line, found=found, allowed=allowed)
        return
    check_is_the_file(text)
    check_no_infotext(text, line=1)
    prompt = text.strip().replace("\r\n", "\n")
    yield RawRow(number=1, line=1, verbatim=text, cells={"id": path.stem, "prompt": prompt})
