"""The part of a prompt that a text encoder will not see.

It counts tokens as the model's own tokenizer does, with the `tokenizers` library alone. So
planning a million prompts needs neither torch nor transformers.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Lowercase, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.processors import RobertaProcessing

from imagemill.db.errors import ModelError
from imagemill.scheduler_jobs.submit.prompts.word_tokens import (
    CLIP_WORDS,
    WordTokens,
    divides_at_blanks,
)

_BEGIN = "<|startoftext|>"
_END = "<|endoftext|>"
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """One token of a prompt: the vocabulary's piece, the prompt's text, and whether it is cut."""

    token_id: int
    piece: str
    text: str
    cut: bool


class PromptWindow:
    """The window of one text encoder: `max_length` tokens, including its begin and end marks."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        # A saved tokenizer may truncate by itself, which would hide what we look for.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._room = max_length - tokenizer.num_special_tokens_to_add(is_pair=False)
        self._words = WordTokens(tokenizer) if divides_at_blanks(tokenizer) else None

    @classmethod
    def from_tokenizer_folder(cls, path: Path, max_length: int) -> "PromptWindow":
        """The window of a model's tokenizer folder.

        Reads `tokenizer.json`, or builds CLIP's tokenizer from `vocab.json` and `merges.txt` as
        transformers' `CLIPTokenizer` does.

        Raises:
            ModelError: the folder holds neither, or they can't be read.
        """
        saved, vocab, merges = (path / n for n in ("tokenizer.json", "vocab.json", "merges.txt"))
        if not saved.is_file() and not (vocab.is_file() and merges.is_file()):
            raise ModelError(f"{path}: no tokenizer.json, and no vocab.json with merges.txt")
        try:
            if saved.is_file():
                tokenizer = Tokenizer.from_file(str(saved))
            else:
                tokenizer = _clip_tokenizer(vocab, merges, _marks(path))
        except Exception as error:  # tokenizers raises bare Exceptions
            raise ModelError(f"{path}: the tokenizer can't be read: {error}") from error
        return cls(tokenizer, max_length)

    def cut(self, prompt: str) -> str | None:
        """The end of `prompt` that is beyond the window, as it is written; None if it fits."""
        if self._surely_fits(prompt):
            return None
        encoded = self._tokenizer.encode(prompt, add_special_tokens=False)
        if len(encoded) <= self._room:
            return None
        start: int = encoded.offsets[self._room][0]
        return prompt[start:]

    @property
    def room(self) -> int:
        """How many tokens of a prompt the window takes, without its begin and end marks."""
        return self._room

    def tokens(self, prompt: str) -> list[Token]:
        """Every token of the prompt in order, without the marks."""
        encoded = self._tokenizer.encode(prompt, add_special_tokens=False)
        return [
            Token(token_id=number, piece=piece, text=prompt[start:end], cut=place >= self._room)
            for place, (number, piece, (start, end)) in enumerate(
                zip(encoded.ids, encoded.tokens, encoded.offsets, strict=True)
            )
        ]

    def windows(self, prompt: str) -> int:
        """How many windows a prompt fills, one after another: at least one."""
        if self._surely_fits(prompt):
            return 1
        return max(1, -(-self.count(prompt) // self._room))

    def count(self, prompt: str) -> int:
        """How many tokens the prompt has, without the marks."""
        return len(self._tokenizer.encode(prompt, add_special_tokens=False))

    def _surely_fits(self, prompt: str) -> bool:
        """Whether the prompt fits, found without tokenizing it; False where nobody knows yet."""
        # A token is at least one byte long. Only ASCII can't grow when it is normalized. A
        # tokenizer may put one mark before the first word.
        if prompt.isascii() and len(prompt) < self._room:
            return True
        return self._words is not None and self._words.fit(prompt, self._room)


def _clip_tokenizer(vocab: Path, merges: Path, marks: dict[str, AddedToken]) -> Tokenizer:
    tokenizer = Tokenizer(
        BPE.from_file(
            str(vocab),
            str(merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
            unk_token=marks["unk_token"].content,
        )
    )
    tokenizer.normalizer = Normalizers([NFC(), Replace(Regex(r"\s+"), " "), Lowercase()])
    tokenizer.pre_tokenizer = PreTokenizers(
        [
            Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            ByteLevel(add_prefix_space=False),
        ]
    )
    # The pad mark of Stable Diffusion 2 is "!": as a special token it changes how "!!!" is read.
    tokenizer.add_special_tokens(list(marks.values()))
    begin, end = (
        (mark, tokenizer.get_vocab()[mark])
        for mark in (marks["bos_token"].content, marks["eos_token"].content)
    )
    tokenizer.post_processor = RobertaProcessing(
        end, begin, trim_offsets=False, add_prefix_space=False
    )
    return tokenizer


def _marks(path: Path) -> dict[str, AddedToken]:
    """The special tokens by role, as the folder's configuration names them."""
    named: dict[str, Any] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if (path / file).is_file():
            config = json.loads((path / file).read_text(encoding="utf-8"))
            named |= {role: config[role] for role in _ROLES if config.get(role) is not None}
    marks = {}
    for role in _ROLES:
        mark = named.get(role, _BEGIN if role == "bos_token" else _END)
        content = mark["content"] if isinstance(mark, dict) else mark
        marks[role] = AddedToken(str(content), normalized=False, special=True)
    return marks
