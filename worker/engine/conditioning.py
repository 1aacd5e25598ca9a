"""Prompts → what the denoiser is conditioned on, each distinct text encoded once.

The text encoder always sees `rows` texts of its whole window, so an embedding does not depend on
which texts were encoded with it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from db.specs import ImageSpec
from worker.adapters import convert_prompts
from worker.models import Model

_CACHE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One text, encoded: `hidden` is (1, tokens, width) on the device."""

    hidden: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """What an embedding depends on, besides the weights.

    `skip` counts the last layers of the text encoder that are left out.
    """

    words: str
    skip: int = 0


def texts_of(spec: ImageSpec) -> tuple[Text, Text | None]:
    """A specification's prompt and, with guidance, its negative prompt.

    As in diffusers' pipeline, clip skip applies to the prompt alone. `clip_skip` counts as A1111
    does: 1 skips nothing.
    """
    prompt = Text(words=spec.prompt, skip=spec.clip_skip - 1)
    return prompt, Text(words=spec.negative_prompt) if spec.guided else None


class Conditioner:
    """Encodes the prompts of one engine."""

    def __init__(self, model: Model, *, rows: int) -> None:
        self._model = model
        self._tokenizer: Any = model.components["tokenizer"]
        self._encoder: Any = model.components["text_encoder"]
        self._device = model.device
        self._dtype = model.dtype
        self._rows = rows
        self._window: int = self._tokenizer.model_max_length
        self._known: OrderedDict[Text, Condition] = OrderedDict()
        self._bytes = 0

    def conditions(self, texts: Sequence[Text]) -> list[Condition]:
        """The conditions of some texts, in their order."""
        found = {text: self._known[text] for text in texts if text in self._known}
        missing = list(dict.fromkeys(text for text in texts if text not in found))
        # Texts of different clip skip come out of different layers of the same pass.
        for start in range(0, len(missing), self._rows):
            some = missing[start : start + self._rows]
            for text, condition in zip(some, self._encode(some), strict=True):
                found[text] = condition
                self._remember(text, condition)
        for text in found:
            if text in self._known:
                self._known.move_to_end(text)
        return [found[text] for text in texts]

    def blank(self) -> Condition:
        """The condition of an empty slot: zeros."""
        width = self._encoder.config.hidden_size
        hidden = torch.zeros(1, self._window, width, device=self._device, dtype=self._dtype)
        return Condition(hidden=hidden)

    def cut(self, words: str) -> str | None:
        """The end of a text that is beyond the window, verbatim; None if all of it fits.

        With embeddings, of the text with their tokens written out.
        """
        # A token is at least a byte: most texts need no counting. Others than ASCII may grow
        # when the tokenizer normalizes them.
        if words.isascii() and len(words) + 2 <= self._window and not self._model.has_embeddings:
            return None
        words = self._spelled_out([words])[0]
        encoded = self._tokenizer(words, return_offsets_mapping=True, verbose=False)
        offsets = encoded["offset_mapping"]
        if len(offsets) <= self._window:
            return None
        # The window holds the begin mark, its tokens, and the end mark.
        first_cut = offsets[self._window - 1][0]
        return words[first_cut:]

    def _encode(self, texts: Sequence[Text]) -> Iterable[Condition]:
        words = self._spelled_out([text.words for text in texts])
        words += [""] * (self._rows - len(texts))
        ids = self._tokenizer(
            words,
            padding="max_length",
            max_length=self._window,
            truncation=True,
            return_tensors="pt",
        )
        mask = None
        if getattr(self._encoder.config, "use_attention_mask", False):
            mask = ids.attention_mask.to(self._device)
        output = self._encoder(
            ids.input_ids.to(self._device), attention_mask=mask, output_hidden_states=True
        )
        for row, text in enumerate(texts):
            hidden = output.last_hidden_state[row : row + 1]
            if text.skip:
                layer = output.hidden_states[-(text.skip + 1)]
                hidden = self._final_norm(layer)[row : row + 1]
            yield Condition(hidden=hidden.to(self._dtype).clone())

    def _spelled_out(self, texts: list[str]) -> list[str]:
        return convert_prompts(self._model, texts) if self._model.has_embeddings else texts

    def _final_norm(self, layer: torch.Tensor) -> torch.Tensor:
        inner = getattr(self._encoder, "text_model", self._encoder)
        normed: torch.Tensor = inner.final_layer_norm(layer)
        return normed

    def _remember(self, text: Text, condition: Condition) -> None:
        self._known[text] = condition
        self._bytes += condition.hidden.nbytes
        while self._bytes > _CACHE_BYTES and len(self._known) > 1:
            _, oldest = self._known.popitem(last=False)
            self._bytes -= oldest.hidden.nbytes
