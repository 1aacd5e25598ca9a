"""How texts of different lengths get one shape, for families that do not pad them all alike.

Most pipelines pad every text to one length. A few hand over a text as long as it is. Then images
whose prompts differ in length would seldom share a forward pass. What is done about it depends on
an image's own text alone, never on its neighbours'.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from imagemill.worker.engine.slots.row_layout import Call

_LENGTHS = (128, 256, 512, 1024)
"""To which a text is padded where a mask hides the padding. Few prompts are longer than 128 tokens,
and at usual sizes a picture is thousands of tokens, so the padding costs little.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextLengths:
    """What a denoiser class lets us do with its texts.

    `masked` has pairs of keyword arguments: a text (rows, tokens, features) and its mask (rows,
    tokens), which may be None for a text without padding. `multiple` is to what multiple of tokens
    the denoiser itself pads each text of a list.
    """

    masked: tuple[tuple[str, str], ...] = ()
    multiple: int = 1


BY_DENOISER: Mapping[str, TextLengths] = {
    "QwenImageTransformer2DModel": TextLengths(
        masked=(("encoder_hidden_states", "encoder_hidden_states_mask"),)
    ),
    "ZImageTransformer2DModel": TextLengths(multiple=32),
}
"""Denoiser class → its texts. A class that is not here merges texts of equal length only."""


def text_lengths(module: torch.nn.Module) -> TextLengths:
    """The entry of a denoiser's class, or of the first of its bases that has one."""
    for base in type(module).__mro__:
        if base.__name__ in BY_DENOISER:
            return BY_DENOISER[base.__name__]
    return TextLengths()


def with_padded_texts(call: Call, lengths: TextLengths) -> Call:
    """The call with each masked text padded to one of a few lengths, and its mask filled in."""
    args, kwargs = call
    changed = dict(kwargs)
    for text_name, mask_name in lengths.masked:
        text = kwargs.get(text_name)
        if text is None:
            continue
        missing = _padded_length(text.shape[1]) - text.shape[1]
        mask = kwargs.get(mask_name)
        if mask is None:
            mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        changed[text_name] = functional.pad(text, (0, 0, 0, missing))
        changed[mask_name] = functional.pad(mask, (0, missing))
    return args, changed


def _padded_length(tokens: int) -> int:
    """The first of the lengths that holds so many tokens; beyond the last, its next multiple."""
    longest = _LENGTHS[-1]
    return next((n for n in _LENGTHS if n >= tokens), tokens + -tokens % longest)
