"""The weights that a prompt gives its parts, written as in A1111.

`(word)` has the weight 1.1, `[word]` 1/1.1, `(word:1.3)` 1.3. Brackets nest, and their weights
multiply. A backslash before a bracket makes it a plain character.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from imagemill.db.errors import UsageError

MAX_WEIGHT = 100.0
"""The largest weight that is taken when rows are submitted, by its amount; encoders know 1."""

_STEP = 1.1
_PARTS = re.compile(r"\\[()\[\]\\]|\\|[()\[\]]|:\s*([+-]?[.\d]+)\s*\)|[^\\()\[\]:]+|:")


class BadWeight(UsageError):
    """A weight that is no number. The message is logged, so it must not quote the prompt."""

    def __init__(self, found: str) -> None:
        super().__init__(f"prompt weight {found!r} is no number")
        self.found = found


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A part of a prompt and its weight."""

    words: str
    weight: float = 1.0


def parse_weights(prompt: str) -> list[Segment]:
    """The prompt's segments in order; neighbours of equal weight are joined.

    A bracket that is never closed reaches to the end of the prompt. Raises `BadWeight` for a
    weight that is no number.
    """
    found: list[Segment] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(start: int, factor: float) -> None:
        for place in range(start, len(found)):
            segment = found[place]
            found[place] = Segment(words=segment.words, weight=segment.weight * factor)

    for match in _PARTS.finditer(prompt):
        part, number = match[0], match[1]
        if part in opened:
            opened[part].append(len(found))
        elif number is not None and opened["("]:
            multiply(opened["("].pop(), _number(number))
        elif part == ")" and opened["("]:
            multiply(opened["("].pop(), _STEP)
        elif part == "]" and opened["["]:
            multiply(opened["["].pop(), 1 / _STEP)
        else:
            escaped = len(part) == 2 and part[0] == "\\"
            found.append(Segment(words=part[1:] if escaped else part))
    for start in opened["("]:
        multiply(start, _STEP)
    for start in opened["["]:
        multiply(start, 1 / _STEP)
    return _joined(found)


def unusable_weight(prompt: str) -> str | None:
    """A weight of the prompt that is no number or beyond `MAX_WEIGHT`; None if all can be used."""
    try:
        weights = [segment.weight for segment in parse_weights(prompt)]
    except BadWeight as error:
        return repr(error.found)
    largest = max(weights, key=abs, default=1.0)
    return f"{largest:g}" if abs(largest) > MAX_WEIGHT else None


def _joined(segments: Sequence[Segment]) -> list[Segment]:
    joined: list[Segment] = []
    for segment in segments:
        if joined and joined[-1].weight == segment.weight:
            words = joined.pop().words + segment.words
            joined.append(Segment(words=words, weight=segment.weight))
        else:
            joined.append(segment)
    return joined


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadWeight(text) from None
