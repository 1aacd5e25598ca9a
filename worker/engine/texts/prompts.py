"""Prompts → tokens in the text encoder's windows, each token with a weight."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imagemill.db.prompt_weights import Segment


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
class TokenWindows:
    """A prompt's windows, and the words that did not fit into them (None if all did)."""

    pieces: tuple[Piece, ...]
    cut: str | None


def tokenize(
    tokenizer: Any, segments: Sequence[Segment], *, window: int, windows: int
) -> TokenWindows:
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
    return TokenWindows(pieces=tuple(pieces), cut=cut)


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
