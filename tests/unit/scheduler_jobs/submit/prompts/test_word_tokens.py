"""The cheap bound of a prompt's tokens never says that a prompt fits which does not."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel

from imagemill.scheduler_jobs.submit.prompts.word_tokens import WordTokens, divides_at_blanks
from tests.unit.manifests import PARTI_PROMPTS, good_rows

SAVED = str(Path("worker/shapes64/tokenizer/tokenizer.json").resolve())
ODD = " \t\n\x1c\x1f!?#'`.,;0123aéžİﬁ\u0301\u0345\u1100\u1161漢\u00a0\u2003\u200b🦊<|>"


def tokenizer(**marks: bool) -> Tokenizer:
    found = Tokenizer.from_file(SAVED)
    if marks:
        found.add_tokens([AddedToken("red", **marks)])
    return found


def count(prompt: str) -> int:
    return len(tokenizer_of_clip.encode(prompt, add_special_tokens=False))


tokenizer_of_clip = tokenizer()


@settings(max_examples=300, deadline=None)
@given(
    words=st.lists(st.one_of(st.text(ODD, max_size=8), st.text(max_size=8)), max_size=30),
    before=st.lists(st.text(ODD, max_size=3), max_size=5),
)
def test_what_fits_surely_does_fit(words: list[str], before: list[str]) -> None:
    bound = WordTokens(tokenizer_of_clip)
    bound.fit(" ".join(before), 0)
    prompt = " ".join(words)
    tokens = count(prompt)
    # Every room up to the exact one: one token less must never do.
    assert not any(bound.fit(prompt, room) for room in range(tokens))


def test_prompts_that_fit_are_found_without_the_tokenizer() -> None:
    bound, room = WordTokens(tokenizer_of_clip), 30
    prompts = [row.prompt for row in good_rows(PARTI_PROMPTS)]
    fitting = [prompt for prompt in prompts if count(prompt) <= room]
    assert len(fitting) > 1000
    assert all(bound.fit(prompt, room) for prompt in fitting)


def test_words_that_are_too_many_or_too_long_are_not_remembered(monkeypatch) -> None:
    module = "imagemill.scheduler_jobs.submit.prompts.word_tokens"
    monkeypatch.setattr(f"{module}._KNOWN_WORDS", 3)
    bound = WordTokens(tokenizer_of_clip)
    assert not bound.fit("x" * 41, 1)
    assert not bound.fit("xy yz zx xx", 1)
    assert bound.fit("red red", 2)
    assert sorted(bound._known) == ["", "red"]


def test_only_the_shape_of_clip_is_trusted() -> None:
    assert divides_at_blanks(tokenizer())
    other = tokenizer()
    other.normalizer = NFC()
    assert not divides_at_blanks(other)
    other = tokenizer()
    other.pre_tokenizer = ByteLevel(add_prefix_space=True)
    assert not divides_at_blanks(other)
    for mark in ("lstrip", "rstrip", "single_word"):
        assert not divides_at_blanks(tokenizer(**{mark: True}))
    other = tokenizer()
    other.add_tokens(["red circle"])
    assert not divides_at_blanks(other)
