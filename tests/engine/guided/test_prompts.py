"""Prompt weights, long prompts, windows."""

import pytest
import torch

from imagemill.db.prompt_weights import Segment, parse_weights
from imagemill.db.settings import Settings
from imagemill.db.states import Outcome
from imagemill.worker.engine import Failed, Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.texts.prompts import tokenize
from imagemill.worker.models.model import Model
from tests.engine.rendering import hashes, pixels_of, render, spec_for
from tools.parity.oracle import Oracle, worst_difference

LONG = "a red circle on a blue background, " * 6 + "and a green star"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("", []),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("a (red:1.5) circle", [("a ", 1.0), ("red", 1.5), (" circle", 1.0)]),
        ("a [pale] sky", [("a ", 1.0), ("pale", 1 / 1.1), (" sky", 1.0)]),
        ("((deep))", [("deep", 1.1 * 1.1)]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1.0), (" c", 0.5)]),
        ("ratio 1:2", [("ratio 1:2", 1.0)]),
        ("a ) b ]", [("a ) b ]", 1.0)]),
    ],
)
def test_weights_are_read_as_a1111_reads_them(
    prompt: str, expected: list[tuple[str, float]]
) -> None:
    found = [(segment.words, segment.weight) for segment in parse_weights(prompt)]
    assert [words for words, _ in found] == [words for words, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize("words", ["", "a red circle", "Ünïcödé  x", LONG, "<|endoftext|> a"])
def test_one_window_is_what_the_tokenizer_itself_makes(words: str, shapes64: Model) -> None:
    tokenizer = shapes64.components["tokenizer"]
    own = tokenizer(words, padding="max_length", max_length=32, truncation=True)["input_ids"]
    [piece] = tokenize(tokenizer, [Segment(words=words)], window=32, windows=1).pieces
    assert list(piece.ids) == own


def test_what_is_beyond_the_last_window_is_cut(shapes64: Model) -> None:
    tokenizer = shapes64.components["tokenizer"]
    one = tokenize(tokenizer, [Segment(words=LONG)], window=32, windows=1)
    two = tokenize(tokenizer, [Segment(words=LONG)], window=32, windows=2)
    assert one.cut is not None
    assert two.cut is None
    assert LONG.endswith(one.cut)
    split = tokenize(
        tokenizer, [Segment(words=LONG), Segment(words=" end", weight=2)], window=32, windows=1
    )
    assert split.cut == one.cut + " end"


def _embedding(model: Model, words: str, weights: dict[str, float] | None = None) -> torch.Tensor:
    """Of words in as many windows as they need, written out step by step."""
    tokenizer, encoder = (model.components[name] for name in ("tokenizer", "text_encoder"))
    ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    names = tokenizer.convert_ids_to_tokens(ids)
    parts = []
    for start in range(0, max(len(ids), 1), 30):
        some, marks = ids[start : start + 30], names[start : start + 30]
        padding = [tokenizer.pad_token_id] * (30 - len(some))
        row = [tokenizer.bos_token_id, *some, tokenizer.eos_token_id, *padding]
        with torch.no_grad():
            hidden = encoder(torch.tensor([row])).last_hidden_state
        if weights:
            factors = [1.0] * 32
            for place, mark in enumerate(marks):
                factors[place + 1] = weights.get(mark.removesuffix("</w>"), 1.0)
            scaled = hidden * torch.tensor(factors)[None, :, None]
            hidden = scaled * (hidden.mean() / scaled.mean())
        parts.append(hidden)
    return torch.cat(parts, dim=1)


def test_a_long_prompt_fills_more_windows(shapes64: Model, settings: Settings) -> None:
    spec = spec_for(shapes64, prompt=LONG, long_prompts="chunk", windows=2)
    engine = open_engine(shapes64, spec.group(), settings, 2)
    [result] = render(engine, [spec])

    assert isinstance(result, Rendered)
    assert result.outcome is Outcome.OK
    # The empty negative prompt fills its second window with padding, as an empty text's.
    empty = _embedding(shapes64, "")
    embeddings = (_embedding(shapes64, LONG), torch.cat([empty, empty], dim=1))
    expected = Oracle(shapes64).same_shape(spec, slots=2, embeddings=embeddings)
    assert worst_difference(result.pixels, expected) == 0
    short = spec_for(shapes64, prompt=LONG)
    [cut] = render(open_engine(shapes64, short.group(), settings, 2), [short])
    assert hashes([cut]) != hashes([result])
    # Another context length is another group.
    [failed] = render(engine, [short])
    assert isinstance(failed, Failed)


def test_a_weighted_prompt_is_the_weighted_embedding(shapes64: Model, settings: Settings) -> None:
    spec = spec_for(shapes64, prompt="a (red:1.6) circle", prompt_weighting=True)
    plain = spec_for(shapes64, prompt="a (red:1.6) circle")
    ones = spec_for(shapes64, prompt="a (red:1.0) circle", prompt_weighting=True)
    bare = spec_for(shapes64, prompt="a red circle")
    engine = open_engine(shapes64, spec.group(), settings, 4)
    weighted, literal, once, without = render(engine, [spec, plain, ones, bare])

    embeddings = (_embedding(shapes64, "a red circle", {"red": 1.6}), _embedding(shapes64, ""))
    expected = Oracle(shapes64).same_shape(spec, slots=4, embeddings=embeddings)
    assert worst_difference(pixels_of(weighted), expected) == 0
    assert hashes([once]) == hashes([without])
    assert len(set(hashes([weighted, literal, once]))) == 3


@pytest.mark.parametrize(
    ("prompt", "words"),
    [("a (red:1.2.3) circle", "1.2.3"), ("half a letter: \ud800", "")],
    ids=["weight", "surrogate"],
)
def test_a_prompt_that_can_not_be_read_fails_alone(
    prompt: str, words: str, shapes64: Model, settings: Settings
) -> None:
    bad = spec_for(shapes64, prompt=prompt, prompt_weighting=True)
    engine = open_engine(shapes64, bad.group(), settings, 2)
    failed, good = render(engine, [bad, spec_for(shapes64, steps=2)])

    assert isinstance(failed, Failed)
    assert words in failed.error.message
    pixels_of(good)
