"""What the text encoders of a pipeline's call were given of each prompt.

A pipeline tells its tokenizers how much it wants, and nobody else. So its tokenizers are
replaced, for one call, by copies that take notes of what they cut off.
"""

import copy
from dataclasses import dataclass
from typing import Any

import transformers

from imagemill.worker.models.pipelines import Pipeline

_TEMPLATE_TOKENS = "prompt_template_encode_start_idx"
"""Where a pipeline keeps how many tokens of its own template it drops before it counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Note:
    """A text as a tokenizer got it, and how many of its characters were read."""

    text: str
    read: int


class Reading:
    """Takes notes of one call: `watch` its pipeline, call it, then ask for each prompt's `cut`."""

    def __init__(self) -> None:
        self._notes: list[_Note] = []

    def watch(self, pipeline: Pipeline, *, kept: int | None) -> None:
        """Give this pipeline tokenizers that take notes.

        It must be a copy for one call: its tokenizers are replaced. `kept` is the pipeline's
        `max_sequence_length`; families with a template (Qwen-Image) let the tokenizer give more
        and drop what is beyond.
        """
        template = getattr(pipeline, _TEMPLATE_TOKENS, None)
        tokens = None if kept is None or template is None else template + kept
        for name, component in pipeline.components.items():
            if isinstance(component, transformers.ProcessorMixin):  # of text and pictures (Flux 2)
                watched = _watched(getattr(component, "tokenizer", None), self._notes, tokens)
                processor = copy.copy(component)
                object.__setattr__(processor, "tokenizer", watched)
                setattr(pipeline, name, processor)
            elif isinstance(component, transformers.PreTrainedTokenizerBase):
                setattr(pipeline, name, _watched(component, self._notes, tokens))

    def cut(self, prompt: str) -> str | None:
        """The end of a prompt that no text encoder was given; None if one was given all of it.

        Verbatim. The tokenizers may have got the prompt stripped, in lower case or within a
        template; what is not recognised counts as read.
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
    """The words and what they are in lower case, which may be longer: then nothing is verbatim."""
    lower = words.lower()
    return (words if len(lower) == len(words) else lower), lower


def _watched(tokenizer: Any, notes: list[_Note], tokens: int | None) -> Any:
    """A copy of the tokenizer that notes every text it is told to cut at a length.

    Of its class, for pipelines that ask; `tokens` is what the pipeline keeps at most. One that
    can't say which character a token comes from is given back as it is.
    """
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerFast):
        return tokenizer
    found = copy.copy(tokenizer)
    kind = type(tokenizer)

    def call(self: Any, text: Any = None, *args: Any, **options: Any) -> Any:
        if options.get("truncation") and isinstance(text, str | list):
            limit = options.get("max_length") or self.model_max_length
            special = options.get("add_special_tokens", True)
            for each in [text] if isinstance(text, str) else text:
                if isinstance(each, str):
                    read = _characters(tokenizer, each, min(limit, tokens or limit), special)
                    notes.append(_Note(text=each, read=read))
        return kind.__call__(self, text, *args, **options)

    found.__class__ = type(
        kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__}
    )
    return found


def _characters(tokenizer: Any, text: str, limit: int, special: bool) -> int:
    """How many characters of a text fit into `limit` tokens, its special ones included."""
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
    # What is cut are the last tokens of the text itself; the marks around it stay.
    offsets = [
        offset for offset, mark in zip(whole["offset_mapping"], marks, strict=True) if not mark
    ]
    return int(offsets[max(0, limit - sum(marks))][0])
