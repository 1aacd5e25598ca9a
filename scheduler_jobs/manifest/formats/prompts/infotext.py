"""A1111's parameters of a picture ("infotext") where a prompt is expected. They are refused."""

import re

from imagemill.scheduler_jobs.manifest.problems import BadValue, Broken

_LAST_LINE = re.compile(
    r"(?<!\S)Steps: [0-9]+, (?:Sampler|Schedule type|CFG scale|Seed|Size): ", re.MULTILINE
)
"""Its last line, which some programs put behind the others on one line."""

_FOUND = "a picture's parameters as A1111 writes them, and no prompt"
_ALLOWED = "a prompt; docs/moving.md makes rows of such texts"


def check_no_infotext(text: str, *, line: int) -> None:
    """Raise `Broken` if the text, which begins at this line, ends with such parameters.

    As lines of prompts, they would be three pictures of which two are drawn from settings.
    """
    found = _LAST_LINE.search(text)
    if found is not None:
        line += text.count("\n", 0, found.start())
        raise Broken(_FOUND, _ALLOWED, line=line)


def check_is_prompt(text: str) -> None:
    """Raise `BadValue` if a cell has such parameters: their numbers would be drawn as words."""
    if "Steps: " in text and _LAST_LINE.search(text) is not None:
        raise BadValue(_FOUND, _ALLOWED)
