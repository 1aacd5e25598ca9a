"""What a generic pipeline's text encoders did not read is recorded, and nothing else."""

import logging
from dataclasses import replace
from typing import Any

import pytest
import transformers

from imagemill.db.states import Outcome
from imagemill.worker.engine import Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.slots.cut_prompts import TokenizerNotes
from tests.engine.rendering import hashes, render
from tests.oracle.registered import Shop, spec_of
from tools.small_models.families import FIRST

WORD = "circle "


@pytest.mark.parametrize(
    "name",
    [family for family in FIRST if family != "flux_dev"],  # `flux_schnell` stands for both
)
def test_what_is_cut_changes_nothing_and_what_is_kept_does(name: str, shop: Shop) -> None:
    model = shop.model(name)
    # Capitals and blanks: some families read prompts in lower case, without blanks around them.
    long = spec_of(model, prompt=" A red " + WORD * 700, steps=1)
    engine = open_engine(model, long.group(), shop.settings)
    short = spec_of(model, steps=1)
    [result, whole] = render(engine, [long, short])

    assert isinstance(result, Rendered)
    assert result.outcome is Outcome.TRUNCATED_PROMPT
    assert result.cut is not None
    kept = long.prompt.rstrip().removesuffix(result.cut.rstrip())
    assert 0 < len(kept) < len(long.prompt.rstrip())
    assert isinstance(whole, Rendered)
    assert (whole.outcome, whole.cut) == (Outcome.OK, None)

    other_end = "heart stars background " * 300
    changed_end = replace(long, prompt=long.prompt[: -len(result.cut)] + other_end)
    last = kept.rstrip()[:-1].rfind(" ") + 1
    changed_inside = replace(long, prompt=kept[:last] + "green " + kept[last:] + result.cut)
    results = render(engine, [changed_end, changed_inside])
    expected, [same, different] = hashes([result])[0], hashes(results)
    assert same == expected
    assert different != expected


def test_a_prompt_that_one_of_the_encoders_read_whole_is_not_cut(shop: Shop) -> None:
    # CLIP takes 77 tokens, T5 256; a byte is a token here.
    model = shop.model("stable_diffusion_3")
    fits, longer = (spec_of(model, prompt="x" * count, steps=1) for count in (255, 256))
    engine = open_engine(model, fits.group(), shop.settings)
    results = render(engine, [fits, longer])

    assert [result.cut for result in results if isinstance(result, Rendered)] == [None, "x"]


def test_no_prompt_is_logged(shop: Shop) -> None:
    model = shop.model("flux_schnell")
    seen: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    listener = Listener()
    for library in ("diffusers", "transformers"):
        logging.getLogger(library).addHandler(listener)
    try:
        long = spec_of(model, prompt="secret " * 200, steps=1)
        [result] = render(open_engine(model, long.group(), shop.settings), [long])
    finally:
        for library in ("diffusers", "transformers"):
            logging.getLogger(library).removeHandler(listener)

    assert isinstance(result, Rendered)
    assert result.outcome is Outcome.TRUNCATED_PROMPT
    assert not [line for line in seen if "secret" in line]


class _Given:
    """A pipeline of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @property
    def components(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer}


class _Processor(transformers.ProcessorMixin):
    """Of text alone; Flux 2's is one of text and pictures."""

    def __init__(self, tokenizer: Any = None, chat_template: str | None = None) -> None:
        super().__init__(tokenizer, chat_template=chat_template)


def test_a_processors_tokenizer_takes_notes_too(shop: Shop) -> None:
    own = shop.model("z_image").components["tokenizer"]
    processor = _Processor(own, chat_template=own.chat_template)
    pipeline = _Given(processor)
    notes = TokenizerNotes()
    notes.watch(pipeline, kept=None)
    said = [[{"role": "user", "content": [{"type": "text", "text": "abcdef"}]}]]
    template = "{% for m in messages %}>{{ m['content'][0]['text'] }}<{% endfor %}"
    options = {"tokenize": True, "return_dict": True, "truncation": True, "max_length": 4}
    given = pipeline.tokenizer.apply_chat_template(said, template, **options)

    assert given == processor.apply_chat_template(said, template, **options)
    assert processor.tokenizer is own
    assert notes.cut("abcdef") == "def"


def test_notes_are_of_what_the_tokenizer_was_told(shop: Shop) -> None:
    own = shop.model("flux_schnell").components["tokenizer_2"]
    pipeline = _Given(own)
    notes = TokenizerNotes()
    notes.watch(pipeline, kept=None)
    watched = pipeline.tokenizer

    assert watched is not own
    assert isinstance(watched, type(own))
    # Counting without cutting is no notes.
    assert watched(["abcdef"]) == own(["abcdef"])
    assert notes.cut("abcdef") is None
    options = {"truncation": True, "max_length": 4, "padding": "max_length"}
    assert watched(["<<ABCDEF>>", "ab"], **options) == own(["<<ABCDEF>>", "ab"], **options)
    # Three tokens and the end mark; the text around a prompt is not the prompt.
    assert notes.cut("ABCDEF") == "BCDEF"
    assert notes.cut("ab") is None
    assert notes.cut("") is None
    assert notes.cut("never given") is None
    watched("<<abcdef>> hi", **options)
    assert notes.cut(" ABCDef ") == "BCDef"
    # Another call read more of it: what none read is what counts.
    watched("abcdef", add_special_tokens=False, **options)
    assert notes.cut("abcdef") == "ef"
