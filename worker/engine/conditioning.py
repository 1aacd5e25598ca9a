"""Prompts → what the denoiser is conditioned on, each distinct text encoded once.

The text encoder always sees `rows` texts of its whole window, so an embedding does not depend on
which texts were encoded with it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from db.specs import ImageSpec
from worker.adapters import convert_prompts
from worker.engine.prompts import Piece, Segment, Tokens, parse_weights, tokenize
from worker.models import Model

_CACHE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One text, encoded: `hidden` is (1, tokens, width) on the device."""

    hidden: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """What an embedding depends on, besides the weights.

    `skip` counts the last layers of the text encoder that are left out, `windows` how many of
    its windows the text fills, one after another; `weighted` says that brackets mean weights.
    """

    words: str
    skip: int = 0
    windows: int = 1
    weighted: bool = False


def texts_of(spec: ImageSpec) -> tuple[Text, Text | None]:
    """A specification's prompt and, with guidance, its negative prompt.

    As in diffusers' pipeline, clip skip applies to the prompt alone. `clip_skip` counts as A1111
    does: 1 skips nothing.
    """
    prompt = Text(
        words=spec.prompt,
        skip=spec.clip_skip - 1,
        windows=spec.windows,
        weighted=spec.prompt_weighting,
    )
    return prompt, replace(prompt, words=spec.negative_prompt, skip=0) if spec.guided else None


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
        for text, condition in zip(missing, self._encode(missing), strict=True):
            found[text] = condition
            self._remember(text, condition)
        for text in found:
            if text in self._known:
                self._known.move_to_end(text)
        return [found[text] for text in texts]

    def blank(self, windows: int) -> Condition:
        """The condition of an empty slot: zeros."""
        width = self._encoder.config.hidden_size
        hidden = torch.zeros(
            1, self._window * windows, width, device=self._device, dtype=self._dtype
        )
        return Condition(hidden=hidden)

    def cut(self, text: Text) -> str | None:
        """The end of a text that is beyond its windows, verbatim; None if all of it fits.

        Without the brackets of weights, and with the tokens of embeddings written out.
        """
        # A token is at least a byte: most texts need no counting. Others than ASCII may grow
        # when the tokenizer normalizes them.
        fits = len(text.words) <= (self._window - 2) * text.windows
        if fits and text.words.isascii() and not self._model.has_embeddings:
            return None
        return self._tokens(text).cut

    def _tokens(self, text: Text) -> Tokens:
        words = self._spelled_out([text.words])[0]
        segments = parse_weights(words) if text.weighted else [Segment(words=words)]
        return tokenize(self._tokenizer, segments, window=self._window, windows=text.windows)

    def _encode(self, texts: Sequence[Text]) -> Iterable[Condition]:
        pieces = [(text, piece) for text in texts for piece in self._tokens(text).pieces]
        rows: list[torch.Tensor] = []
        for start in range(0, len(pieces), self._rows):
            rows += self._encode_pieces(pieces[start : start + self._rows])
        for text in texts:
            parts, rows = rows[: text.windows], rows[text.windows :]
            yield Condition(hidden=torch.cat(parts, dim=1))

    def _encode_pieces(self, pieces: Sequence[tuple[Text, Piece]]) -> list[torch.Tensor]:
        """One pass of the text encoder, always of the same shape."""
        padded = [piece for _, piece in pieces]
        padded += [padded[0]] * (self._rows - len(padded))
        ids = torch.tensor([piece.ids for piece in padded], device=self._device)
        mask = None
        if getattr(self._encoder.config, "use_attention_mask", False):
            used = torch.tensor([[piece.used] for piece in padded], device=self._device)
            mask = (torch.arange(self._window, device=self._device) < used).long()
        skips = any(text.skip for text, _ in pieces)
        output = self._encoder(ids, attention_mask=mask, output_hidden_states=skips)
        rows = []
        for row, (text, piece) in enumerate(pieces):
            hidden = output.last_hidden_state[row : row + 1]
            if text.skip:
                layer = output.hidden_states[-(text.skip + 1)]
                hidden = self._final_norm(layer)[row : row + 1]
            rows.append(_weighted(hidden, piece).to(self._dtype).clone())
        return rows

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


def _weighted(hidden: torch.Tensor, piece: Piece) -> torch.Tensor:
    """The window's embedding with its tokens' weights, its mean kept as A1111 keeps it."""
    if not piece.weighted:
        return hidden
    weights = torch.tensor(piece.weights, device=hidden.device, dtype=hidden.dtype)
    scaled = hidden * weights[None, :, None]
    return scaled * (hidden.mean() / scaled.mean())
