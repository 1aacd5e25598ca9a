"""Reads an infotext as A1111 does, to try that other tools read ours."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from imagemill.worker.files.infotext import NEGATIVE

PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""The pattern that readers match repeatedly on the last line. They want at least 3 matches."""

LEAST_PARAMETERS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedInfotext:
    """The contents of an infotext; `parameters` are unquoted strings in the order of the file."""

    prompt: str
    negative_prompt: str
    parameters: Mapping[str, str]


def parse_infotext(text: str) -> ParsedInfotext:
    """Read an infotext as A1111 does, but keep the whitespace of the prompts.

    The first line that starts with `Negative prompt:` ends the prompt. A last line with fewer
    than three parameters belongs to the prompts.
    """
    *lines, last = text.split("\n")
    matches = PARAMETER.findall(last)
    if len(matches) < LEAST_PARAMETERS:
        lines, matches = [*lines, last], []
    begins = next((i for i, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    negative = "\n".join(lines[begins:]).removeprefix(NEGATIVE).removeprefix(" ")
    return ParsedInfotext(
        prompt="\n".join(lines[:begins]),
        negative_prompt=negative,
        parameters={key: _unquoted(value) for key, value in matches},
    )


def _unquoted(value: str) -> str:
    if not (value.startswith('"') and value.endswith('"')):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value
