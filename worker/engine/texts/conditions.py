"""Prompts → embeddings for the denoiser. Each distinct text is encoded once and cached.

The text encoder always gets the same shape: `rows` texts, each padded to the whole window. So an
embedding does not depend on how many texts were encoded together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from cachetools import LRUCache

from imagemill.db.prompt_weights import Segment, parse_weights
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.texts.prompts import Piece, TokenWindows, tokenize
from imagemill.worker.models.adapters import convert_prompt
from imagemill.worker.models.model import Model

_CACHE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One encoded text on the device: `hidden` is (1, tokens, width), `pooled` is (1, width).

    Models with one text encoder have no `pooled`. Models that take no text have neither.
    """

    hidden: torch.Tensor | None = None
    pooled: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """Everything that an embedding depends on, besides the model's weights.

    `skip` is the number of last layers of the text encoder that are left out. `windows` is the
    number of the encoder's windows that the text fills, one after another. `weighted` says that
    brackets mean weights.
    """

    words: str
    skip: int = 0
    windows: int = 1
    weighted: bool = False
    negative: bool = False


def texts_of(spec: ImageSpec) -> tuple[Text, Text | None]:
    """A specification's prompt and, with guidance, its negative prompt.

    `clip_skip` counts as A1111 does: 1 skips nothing. As in diffusers' pipelines, it applies to
    the prompt only.
    """
    prompt = Text(
        words=spec.prompt,
        skip=spec.clip_skip - 1,
        windows=spec.windows,
        weighted=spec.prompt_weighting,
    )
    if not spec.guided:
        return prompt, None
    return prompt, replace(prompt, words=spec.negative_prompt, skip=0, negative=True)


class NoText:
    """The conditioner of models that take no text."""

    def conditions(self, texts: Sequence[Text]) -> list[Condition]:
        """An empty condition for each text."""
        return [Condition() for _ in texts]

    def blank(self) -> Condition:
        """The condition of an empty slot."""
        return Condition()

    def for_refiner(self, condition: Condition) -> Condition:
        """The same empty condition."""
        return condition

    def cut(self, text: Text) -> str | None:
        """Always None: here a prompt is only a label, so nothing of it can be cut."""
        del text
        return None


class Conditioner:
    """Encodes the prompts of one engine, with one text encoder or with two (SDXL).

    Every encoder call has `rows` windows, even if fewer are needed. Every prompt has `windows`.
    """

    def __init__(self, model: Model, *, rows: int, windows: int) -> None:
        self._model = model
        names = ("", "_2") if "text_encoder_2" in model.components else ("",)
        self._tokenizers: list[Any] = [model.components[f"tokenizer{name}"] for name in names]
        self._names = [f"text_encoder{name}" for name in names]
        self._encoders: list[Any] = [model.components[name] for name in self._names]
        self._device = model.device
        self._dtype = model.dtype
        self._rows = rows
        self._windows = windows
        self._window: int = self._tokenizers[0].model_max_length
        self._zero_empty = bool(model.index.get("force_zeros_for_empty_prompt"))
        self._known: LRUCache[Text, Condition] = LRUCache(_CACHE_BYTES, getsizeof=_size)

    def conditions(self, texts: Sequence[Text]) -> list[Condition]:
        """The conditions of these texts, in the same order."""
        found = {text: self._known[text] for text in texts if text in self._known}
        missing = list(dict.fromkeys(text for text in texts if text not in found))
        for text, condition in zip(missing, self._encode(missing), strict=True):
            found[text] = condition
            # One that is larger than the whole cache is encoded again each time.
            if _size(condition) <= _CACHE_BYTES:
                self._known[text] = condition
        return [found[text] for text in texts]

    def for_refiner(self, condition: Condition) -> Condition:
        """The part of a condition that the second text encoder made; a refiner uses only that."""
        assert condition.hidden is not None
        width = self._encoders[1].config.hidden_size
        return replace(condition, hidden=condition.hidden[..., -width:])

    def blank(self) -> Condition:
        """The condition of an empty slot: zeros."""
        width = sum(encoder.config.hidden_size for encoder in self._encoders)
        hidden = self._zeros(1, self._window * self._windows, width)
        if len(self._encoders) == 1:
            return Condition(hidden=hidden)
        return Condition(
            hidden=hidden, pooled=self._zeros(1, self._encoders[1].config.projection_dim)
        )

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(*shape, device=self._device, dtype=self._dtype)

    def cut(self, text: Text) -> str | None:
        """The end of a text that does not fit into its windows; None if all of it fits.

        Brackets of weights are left out, and the tokens of embeddings are written out.
        """
        # A token is at least one byte long, so most texts fit without counting their tokens. Only
        # ASCII is safe: the tokenizer's normalization can make other texts longer.
        fits = len(text.words) <= (self._window - 2) * text.windows
        if fits and text.words.isascii() and not self._model.has_embeddings:
            return None
        return self._tokens(text)[0].cut

    def _tokens(self, text: Text) -> list[TokenWindows]:
        """The text's windows, for each encoder's tokenizer."""
        found = []
        for tokenizer in self._tokenizers:
            words = text.words
            if self._model.has_embeddings:
                words = convert_prompt(tokenizer, words)
            segments = parse_weights(words) if text.weighted else [Segment(words=words)]
            found.append(tokenize(tokenizer, segments, window=self._window, windows=text.windows))
        return found

    def _encode(self, texts: Sequence[Text]) -> Iterable[Condition]:
        pieces: list[tuple[Text, tuple[Piece, ...]]] = []
        for text in texts:
            by_encoder = [tokens.pieces for tokens in self._tokens(text)]
            pieces += [(text, window) for window in zip(*by_encoder, strict=True)]
        rows: list[Condition] = []
        for start in range(0, len(pieces), self._rows):
            rows += self._encode_pieces(pieces[start : start + self._rows])
        for text in texts:
            parts, rows = rows[: text.windows], rows[text.windows :]
            if text.negative and not text.words and self._zero_empty:
                yield self.blank()
                continue
            hidden = torch.cat([part.hidden for part in parts if part.hidden is not None], dim=1)
            yield Condition(hidden=hidden, pooled=parts[0].pooled)

    def _encode_pieces(self, pieces: Sequence[tuple[Text, tuple[Piece, ...]]]) -> list[Condition]:
        """One pass through each text encoder, always with the same shape."""
        outputs = [
            self._run(name, [windows[which] for _, windows in pieces])
            for which, name in enumerate(self._names)
        ]
        conditions = []
        for row, (text, windows) in enumerate(pieces):
            hidden = [
                self._layer(encoder, output, text.skip)[row : row + 1]
                for encoder, output in zip(self._encoders, outputs, strict=True)
            ]
            pooled = None
            if len(outputs) == 2:
                pooled = outputs[1].text_embeds[row : row + 1].to(self._dtype).clone()
            weighted = _weighted(torch.cat(hidden, dim=-1), windows[0])
            conditions.append(Condition(hidden=weighted.to(self._dtype), pooled=pooled))
        return conditions

    def _run(self, name: str, pieces: Sequence[Piece]) -> Any:
        padded = [*pieces, *[pieces[0]] * (self._rows - len(pieces))]
        ids = torch.tensor([piece.ids for piece in padded], device=self._device)
        mask = None
        if getattr(self._model.components[name].config, "use_attention_mask", False):
            used = torch.tensor([[piece.used] for piece in padded], device=self._device)
            mask = (torch.arange(self._window, device=self._device) < used).long()
        with self._model.using(name) as encoder:
            return encoder(ids, attention_mask=mask, output_hidden_states=True)

    def _layer(self, encoder: Any, output: Any, skip: int) -> torch.Tensor:
        """The layer that conditions the denoiser.

        SDXL takes the last but one, without the final norm; the others take the last.
        """
        layer: torch.Tensor
        if len(self._encoders) == 2:
            layer = output.hidden_states[-(skip + 2)]
        elif skip:
            inner = getattr(encoder, "text_model", encoder)
            layer = inner.final_layer_norm(
                output.hidden_states[-(skip + 1)].to(inner.final_layer_norm.weight.device)
            ).to(self._device)
        else:
            layer = output.last_hidden_state
        return layer


def _weighted(hidden: torch.Tensor, piece: Piece) -> torch.Tensor:
    """The window's embedding multiplied by its tokens' weights.

    The result is scaled back to the mean that it had before, as A1111 does.
    """
    if not piece.weighted:
        return hidden
    weights = torch.tensor(piece.weights, device=hidden.device, dtype=hidden.dtype)
    scaled = hidden * weights[None, :, None]
    return scaled * (hidden.mean() / scaled.mean())


def _size(condition: Condition) -> int:
    return sum(part.nbytes for part in (condition.hidden, condition.pooled) if part is not None)
