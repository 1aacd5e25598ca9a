"""How much of each prompt the text encoders of a pipeline's call have read.

Only the tokenizers learn where a pipeline cuts a prompt. So for one call they are replaced by
copies that note what was cut off.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import transformers

from imagemill.worker.engine.slots.stand_ins import stand_in
from imagemill.worker.models.pipelines import Pipeline

_TEMPLATE_TOKENS = "prompt_template_encode_start_idx"
"""The attribute in which a pipeline keeps the length, in tokens, of its prompt template."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Note:
    """A text that a tokenizer was given, and how many of its characters were read."""

    text: str
    read: int


class TokenizerNotes:
    """Notes what one call reads: `watch` the pipeline, call it, then ask for a prompt's `cut`."""

    def __init__(self) -> None:
        self._notes: list[_Note] = []

    def watch(self, pipeline: Pipeline, *, kept: int | None) -> None:
        """Replace this pipeline's tokenizers by ones that take notes.

        The pipeline must be a copy made for one call. `kept` is its `max_sequence_length`.
        Families with a prompt template (Qwen-Image) ask the tokenizer for more tokens than that
        and drop the rest themselves.
        """
        template = getattr(pipeline, _TEMPLATE_TOKENS, None)
        tokens = None if kept is None or template is None else template + kept
        for name, component in pipeline.components.items():
            if isinstance(component, transformers.ProcessorMixin):  # of text and pictures (Flux 2)
                watched = _watched(getattr(component, "tokenizer", None), self._notes, tokens)
                processor = copy.copy(component)
                object.__setattr__(processor, "tokenizer", watched)
                pipeline.__dict__[name] = processor
            elif isinstance(component, transformers.PreTrainedTokenizerBase):
                pipeline.__dict__[name] = _watched(component, self._notes, tokens)

    def cut(self, prompt: str) -> str | None:
        """The end of a prompt that no text encoder has read; None if one has read all of it.

        It is quoted as the prompt has it. A tokenizer may have been given the prompt stripped, in
        lower case or inside a template. A prompt that is not found in any note counts as read.
        """
        stripped = prompt.strip()
        shortest: str | None = None
        for note in self._notes:
            for words, as_given in ((prompt, prompt), (stripped, stripped), _lower(stripped)):
                start = note.text.rfind(as_given)
                if start < 0:
                    continue
                rest = words[max(0, note.read - start) :]
                if not rest:
                    return None
                if shortest is None or len(rest) < len(shortest):
                    shortest = rest
                break
        return shortest


def _lower(words: str) -> tuple[str, str]:
    """The words to quote, and their lower case.

    A few letters get longer in lower case. Then positions do not agree, and the lower case itself
    is quoted.
    """
    lower = words.lower()
    return (words if len(lower) == len(words) else lower), lower


def _watched(tokenizer: Any, notes: list[_Note], tokens: int | None) -> Any:
    """A copy of the tokenizer that notes every text which it is told to cut.

    The copy is an instance of the tokenizer's class, because some pipelines check that. `tokens`
    is the most that the pipeline keeps. A tokenizer that can't map tokens to characters (a slow
    one) is returned as it is.
    """
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerFast):
        return tokenizer
    kind = type(tokenizer)

    def answer(self: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        text = args[0] if args else options.get("text")
        if options.get("truncation") and isinstance(text, str | list):
            limit = options.get("max_length") or self.model_max_length
            special = options.get("add_special_tokens", True)
            for each in [text] if isinstance(text, str) else text:
                if isinstance(each, str):
                    read = _characters(tokenizer, each, min(limit, tokens or limit), special)
                    notes.append(_Note(text=each, read=read))
        # Of the stand-in itself: a pipeline may have changed its settings.
        return kind.__call__(self, *args, **options)

    return stand_in(tokenizer, answer)


def _characters(tokenizer: Any, text: str, limit: int, special: bool) -> int:
    """How many characters of a text fit into `limit` tokens, special tokens included."""
    # A token has a character or more, but for the special ones, and for one that some tokenizers
    # put first. Only ASCII is safe: normalization can make other texts longer.
    if text.isascii() and len(text) + tokenizer.num_special_tokens_to_add() + 1 <= limit:
        return len(text)
    whole = tokenizer(
        text,
        add_special_tokens=special,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    if len(whole["input_ids"]) <= limit:
        return len(text)
    marks = whole["special_tokens_mask"]
    # The tokenizer cuts the last tokens of the text; its special tokens stay.
    offsets = [
        offset for offset, mark in zip(whole["offset_mapping"], marks, strict=True) if not mark
    ]
    return int(offsets[max(0, limit - sum(marks))][0])
