"""Lines of InvokeAI's `from_file`: a prompt, then options of one letter (`-n4 -s 20 -C7.5`)."""

import re
import shlex
from collections.abc import Mapping
from types import MappingProxyType

from imagemill.scheduler_jobs.manifest.problems import BadValue, shown
from imagemill.scheduler_jobs.manifest.raw_rows import JSON

INVOKE_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "n": "samples",
        "s": "steps",
        "C": "guidance_scale",
        "W": "width",
        "H": "height",
        "S": "seed",
        "A": "sampler",
        "m": "sampler",
        "f": "strength",
        "I": "init_image",
    }
)
_SIGN = re.compile(r"\s-(?:[nsCWHSf]\s?[0-9.]+|[Am]\s?[a-z][a-z0-9_]+)(?=\s|$)")
_BEFORE = re.compile(r"\s-[A-Za-z]\s?[-+]?\.?[0-9][^\s\"']{0,40}$")
"""An option before the first good one: its value is wrong, or it is unknown."""
_LONGEST_BEFORE = 50
_LETTER = re.compile(r"-([A-Za-z])(.*)", re.DOTALL)


class BadOption(BadValue):
    """An option of a line that is wrong."""

    def __init__(self, column: str | None, found: str, allowed: str) -> None:
        super().__init__(found, allowed)
        self.column = column


def is_invoke(text: str) -> bool:
    """Whether a line ends with options in InvokeAI's form."""
    return _SIGN.search(text) is not None


def read_invoke(text: str) -> dict[str, JSON]:
    """The cells of a line with options.

    Raises `BadOption` if an option is unknown, has no value or is given twice.
    """
    first = _SIGN.search(text)
    assert first is not None
    start = first.start()
    while before := _BEFORE.search(text, max(start - _LONGEST_BEFORE, 0), start):
        start = before.start()
    prompt = text[:start].strip()
    if len(prompt) > 1 and prompt[0] == prompt[-1] == '"':
        prompt = prompt[1:-1].replace('\\"', '"')
    cells: dict[str, JSON] = {"prompt": prompt}
    try:
        words = shlex.split(text[start:])
    except ValueError:
        raise BadOption(None, "a quote without its other", "quotes in pairs") from None
    while words:
        word = words.pop(0)
        match = _LETTER.fullmatch(word)
        if match is None:
            raise BadOption(None, f"{shown(word)} where an option should be", "an option: -n4")
        name, value = match[1], match[2] or (words.pop(0) if words else "")
        field = INVOKE_FIELDS.get(name)
        if field is None:
            known = ", -".join(INVOKE_FIELDS)
            raise BadOption(f"-{name}", "an unknown option", f"one of -{known}")
        if not value:
            raise BadOption(f"-{name}", "an option without a value", "-n4")
        if field in cells:
            raise BadOption(f"-{name}", "an option given twice", "every option once")
        cells[field] = value
    return cells
