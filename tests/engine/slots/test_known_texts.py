"""A text is encoded once, its answer has the same bits, and no spoilt answer is used again."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.slots.known_texts import KnownTexts
from imagemill.worker.models.model import Model
from tests.engine.rendering import hashes, render
from tests.oracle.registered import Shop, spec_of
from tools.small_models.parts import clip


class Pipeline(SimpleNamespace):
    @property
    def components(self) -> dict[str, Any]:
        return vars(self)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The token ids of every call of a CLIP text encoder."""
    seen: list[Any] = []
    forward = transformers.CLIPTextModel.forward

    def watched(self: Any, ids: Any = None, **options: Any) -> Any:
        seen.append(ids)
        return forward(self, ids, **options)

    monkeypatch.setattr(transformers.CLIPTextModel, "forward", watched)
    return seen


def remembering(limit: int = 1 << 20) -> Any:
    pipeline = Pipeline(text_encoder=clip(projected=False).eval(), other="no encoder")
    KnownTexts(limit=limit).remember(pipeline)
    assert pipeline.other == "no encoder"
    return pipeline.text_encoder


def ids(word: int) -> torch.Tensor:
    return torch.tensor([[0, word, 1]])


@torch.no_grad()
def test_equal_calls_are_answered_once(calls: list[Any]) -> None:
    encoder = remembering()
    first = encoder(ids(5), output_hidden_states=True)
    again = encoder(ids(5), output_hidden_states=True)
    assert len(calls) == 1
    assert torch.equal(first.last_hidden_state, again.last_hidden_state)
    assert all(map(torch.equal, first.hidden_states, again.hidden_states))
    encoder(ids(6), output_hidden_states=True)
    encoder(ids(5), output_hidden_states=False)
    encoder(ids(5), attention_mask=torch.tensor([[1, 1, 0]]))
    assert len(calls) == 4


@torch.no_grad()
def test_an_answer_that_somebody_wrote_into_is_not_used_again(calls: list[Any]) -> None:
    encoder = remembering()
    expected = encoder(ids(5)).last_hidden_state.clone()
    encoder(ids(5)).last_hidden_state[:, 1:] = 0
    assert torch.equal(encoder(ids(5)).last_hidden_state, expected)
    assert len(calls) == 2


@torch.no_grad()
def test_a_call_with_other_things_than_values_is_always_made(calls: list[Any]) -> None:
    encoder = remembering()
    for _ in range(2):
        encoder(ids(5), unknown=object())
    assert len(calls) == 2


@torch.no_grad()
def test_no_more_is_kept_than_fits(calls: list[Any]) -> None:
    size = remembering()(ids(5)).last_hidden_state.nbytes
    calls.clear()
    for limit, expected in ((size // 2, 4), (3 * size, 3)):
        encoder = remembering(limit)
        for word in (5, 6, 7, 7):
            encoder(ids(word))
        assert len(calls) == expected
        calls.clear()


def test_an_engine_encodes_each_prompt_once(tmp_path: Path, calls: list[Any]) -> None:
    shop = Shop(tmp_path, slots=2)
    model: Model = shop.model("latent_consistency")
    specs = [spec_of(model, prompt=prompt, seed=n) for n, prompt in enumerate("abab")]
    results = render(open_engine(model, specs[0].group(), shop.settings), specs)
    # One more with both rows, from which the engine learns what grows with the number of images.
    assert len(calls) == 3
    alone = [
        render(open_engine(model, specs[0].group(), shop.settings), [spec])[0] for spec in specs
    ]
    assert hashes(alone) == hashes(results)
