"""Finds a table's dialect: the delimiter of its cells, and whether quotes have a meaning.

A spreadsheet writes semicolons if the comma is the decimal sign. It may begin with a line `sep=;`,
and it quotes cells of a TSV. In PartiPrompts' TSV, quotes are plain text. The header and the cells
show the dialect. If they contradict each other, one line says so.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from imagemill.scheduler_jobs.manifest.columns.fields import PROMPT, PROMPT_FALLBACKS
from imagemill.scheduler_jobs.manifest.columns.foreign_names import folded
from imagemill.scheduler_jobs.manifest.columns.layout import field_of
from imagemill.scheduler_jobs.manifest.problems import Broken, shown
from imagemill.scheduler_jobs.manifest.sources.lines import Line

DELIMITERS = (",", ";", "\t", "|")
NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}

_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How a table's lines are divided into cells.

    With `quoted`, a cell in double quotes may contain delimiters, line breaks and doubled quotes.
    With `trimmed`, blanks after a delimiter are ignored.
    """

    delimiter: str
    quoted: bool = True
    trimmed: bool = False


def find_dialect(text: str, usual: str, mapping: Mapping[str, str]) -> Dialect:
    """The dialect of a table that begins with `text`. `usual` is the delimiter for its suffix.

    A dialect with tabs has no quotes here; `has_quoted_cells` finds out whether it has.

    Raises:
        Broken: the header has a prompt column with more than one delimiter.
    """
    lines = [line.rstrip("\r") for line in text.lstrip("\ufeff").split("\n") if line.strip()][:2]
    header = lines[0] if lines else ""
    named = separator(header)
    if named is not None:
        delimiter, header = named, lines[1] if len(lines) > 1 else ""
    else:
        fits = [sign for sign in DELIMITERS if has_prompt(cells_of(header, sign), mapping, least=2)]
        if len(fits) > 1:
            raise Broken(
                f"the header may be divided by {' or by '.join(NAMES[sign] for sign in fits)}",
                "one delimiter in the header",
                line=1,
                column="header",
            )
        delimiter = fits[0] if fits else usual
    _, *others = header.split(delimiter)
    trimmed = bool(others) and all(cell[:1] == " " for cell in others)
    return Dialect(delimiter=delimiter, quoted=delimiter != "\t", trimmed=trimmed)


def separator(line: str) -> str | None:
    """The delimiter that a spreadsheet's first line `sep=;` names; None for any other line."""
    match = _SEPARATOR.fullmatch(line.strip("\r\n "))
    return match[1] if match else None


def cells_of(header: str, delimiter: str) -> list[str]:
    """A header's names, without blanks and quotes around them. Quoted delimiters divide too."""
    return [cell.strip().strip('"') for cell in header.split(delimiter)]


def has_prompt(cells: Sequence[str], mapping: Mapping[str, str], *, least: int = 1) -> bool:
    """Whether there are at least `least` columns and one of them means the prompt."""
    if len(cells) < least:
        return False
    if any(mapping.get(cell) == PROMPT or field_of(cell) == PROMPT for cell in cells):
        return True
    return len(cells) > 1 and any(folded(cell) in PROMPT_FALLBACKS for cell in cells)


def has_quoted_cells(lines: Iterable[Line]) -> bool:
    """Whether quotes in a table with tabs have a meaning, and are not plain text.

    They have if every cell with a quote begins and ends with one and doubles those inside.

    Raises:
        Broken: some cells double the quotes inside, and others have quotes as text.
    """
    proper = doubled = 0
    literal = False
    inside = False
    for line in lines:
        if '"' not in line.text:
            continue
        for cell in line.text.split("\t"):
            if not inside and not cell.startswith('"'):
                literal = literal or '"' in cell
                continue
            body = cell if inside else cell[1:]
            rest = body.replace('""', "")
            inside = '"' not in rest
            if not inside:
                good = rest.endswith('"') and rest.count('"') == 1
                literal = literal or not good
                proper += good
                doubled += good and len(body) - len(rest) > 0 and len(body) > 1
        if literal and not doubled and not inside and proper > 1:
            break
    if literal and doubled:
        raise Broken(
            'cells quoted as a spreadsheet does ("a ""red"" circle") beside cells with bare quotes',
            "one of them in all cells",
        )
    return proper > 0 and not literal and not inside


def name_of(delimiter: str) -> str:
    """A delimiter in words."""
    return NAMES.get(delimiter) or shown(delimiter)
