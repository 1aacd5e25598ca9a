"""Prompts → tokens in the text encoder's windows, each token with a weight.

Weights are written as in A1111: `(word)` has the weight 1.1, `[word]` 1/1.1, `(word:1.3)` 1.3.
Brackets nest, and their weights multiply. A backslash before a bracket makes it a plain character.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imagemill.db.errors import UsageError

_STEP = 1.1
_PARTS = re.compile(r"\\[()\[\]\\]|\\|[()\[\]]|:\s*([+-]?[.\d]+)\s*\)|[^\\()\[\]:]+|:")


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A part of a prompt and its weight."""

    words: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One window of the text encoder.

    `ids` are its tokens with begin, end and padding; `weights` has one weight for each. `used` is
    the number of tokens without the padding.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    used: int

    @property
    def weighted(self) -> bool:
        """Whether any token has a weight other than 1."""
        return any(weight != 1.0 for weight in self.weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """A prompt's windows, and the words that did not fit into them (None if all did)."""

    pieces: tuple[Piece, ...]
    cut: str | None


def parse_weights(prompt: str) -> list[Segment]:
    """The prompt's segments in order; neighbours of equal weight are joined.

    A bracket that is never closed reaches to the end of the prompt. Raises `UsageError` for a
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


def tokenize(tokenizer: Any, segments: Sequence[Segment], *, window: int, windows: int) -> Tokens:
    """Fill exactly `windows` windows of `window` tokens each, begin and end tokens included.

    The rest is padded with the tokenizer's padding token.
    """
    room = (window - 2) * windows
    ids: list[int] = []
    weights: list[float] = []
    cut: str | None = None
    for place, segment in enumerate(segments):
        encoded = tokenizer(
            segment.words, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        left = room - len(ids)
        if len(encoded["input_ids"]) > left:
            rest = [later.words for later in segments[place + 1 :]]
            cut = segment.words[encoded["offset_mapping"][left][0] :] + "".join(rest)
        ids += encoded["input_ids"][:left]
        weights += [segment.weight] * min(left, len(encoded["input_ids"]))
        if cut is not None:
            break
    pieces = []
    for start in range(0, room, window - 2):
        some = slice(start, start + window - 2)
        pieces.append(_piece(tokenizer, ids[some], weights[some], window))
    return Tokens(pieces=tuple(pieces), cut=cut)


def _piece(tokenizer: Any, ids: list[int], weights: list[float], window: int) -> Piece:
    padding = window - 2 - len(ids)
    return Piece(
        ids=(
            tokenizer.bos_token_id,
            *ids,
            tokenizer.eos_token_id,
            *[tokenizer.pad_token_id] * padding,
        ),
        weights=(1.0, *weights, 1.0, *[1.0] * padding),
        used=len(ids) + 2,
    )


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
        # The error is logged, so it must not quote the prompt. The row has it anyway.
        raise UsageError(f"prompt weight {text!r} is no number") from None
