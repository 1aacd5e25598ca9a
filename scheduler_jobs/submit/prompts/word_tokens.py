"""A cheap upper bound of how many tokens a prompt has.

Tokenizing takes 45 µs a prompt, and nearly all prompts fit into the window. CLIP's tokenizer never
joins what a blank divides. So a prompt has as many tokens as its words have together, and the
prompts of a manifest share most of their words.
"""

import json

from tokenizers import Tokenizer
from tokenizers.models import BPE

# CLIP's own pattern, as in the original `simple_tokenizer.py`.
CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)

_NORMALIZERS = [
    {"type": "NFC"},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Lowercase"},
]
_SPLIT = {
    "type": "Split",
    "pattern": {"Regex": CLIP_WORDS},
    "behavior": "Removed",
    "invert": True,
}
_KNOWN_WORDS = 20_000
_KNOWN_CHARACTERS = 40
"""The longest word that is remembered."""


class WordTokens:
    """The tokens of words, remembered. For tokenizers only that `divides_at_blanks`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known = {"": 0}

    def fit(self, prompt: str, room: int) -> bool:
        """Whether the prompt surely has at most `room` tokens. False means: nobody knows yet."""
        words = prompt.split(" ")
        known = self._known
        # A token is at least one byte, so a new word of ASCII has at most as many as characters.
        if prompt.isascii() and sum([known.get(word, len(word)) for word in words]) <= room:
            return True
        if sum([known.get(word, 1) for word in words]) > room:
            return False  # even if every new word were a single token
        new = [word for word in words if word not in known]
        return self._learn(new) and sum([known[word] for word in words]) <= room

    def _learn(self, words: list[str]) -> bool:
        """Count the tokens of words and remember them; False if that is too much to remember."""
        if len(self._known) + len(words) > _KNOWN_WORDS:
            return False
        if any(len(word) > _KNOWN_CHARACTERS for word in words):
            return False
        for word in words:
            self._known[word] = len(self._tokenizer.encode(word, add_special_tokens=False))
        return True


def divides_at_blanks(tokenizer: Tokenizer) -> bool:
    """Whether this tokenizer works as CLIP's does, so that words can be counted one by one.

    What has another shape may join words, or add a mark before each: it is not known here.
    """
    if not isinstance(tokenizer.model, BPE) or tokenizer.model.dropout is not None:
        return False
    if tokenizer.normalizer is None or tokenizer.pre_tokenizer is None:
        return False
    normalizer = json.loads(tokenizer.normalizer.__getstate__())
    first, *rest = json.loads(tokenizer.pre_tokenizer.__getstate__()).get("pretokenizers", [{}])
    return (
        normalizer.get("normalizers") == _NORMALIZERS
        and first == _SPLIT
        and [(each["type"], each.get("add_prefix_space")) for each in rest]
        == [("ByteLevel", False)]
        and not any(
            " " in mark.content or mark.lstrip or mark.rstrip or mark.single_word
            for mark in tokenizer.get_added_tokens_decoder().values()
        )
    )
