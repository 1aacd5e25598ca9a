"""The slot engine's conduct: who shares passes, who waits, and what it leaves behind."""

from collections.abc import Iterator
from functools import wraps
from typing import Any

import pytest
import torch

from imagemill.db.errors import UsageError
from imagemill.worker.engine import Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.probe import probe
from imagemill.worker.engine.shapes import CPU_SLOTS
from imagemill.worker.engine.slots import engine as slot_engine
from imagemill.worker.models.model import Model
from imagemill.worker.reproducibility.certificate import certify
from tests.engine.conftest import SLOTS
from tests.engine.rendering import hashes, render
from tests.oracle.registered import Shop, spec_of

QUICK = "stable_diffusion_3"


@pytest.fixture
def model(shop: Shop) -> Model:
    return shop.model(QUICK)


@pytest.fixture(autouse=True)
def nothing_stays_behind(shop: Shop) -> Iterator[None]:
    """Whatever a pipeline changes for its call is as before, also where it was stopped."""
    yield
    assert torch.is_grad_enabled()
    assert "forward" not in vars(shop.model(QUICK).components["transformer"])


def test_images_of_any_steps_samplers_and_guidance_share_passes(shop: Shop, model: Model) -> None:
    specs = [
        spec_of(model, seed=1, steps=2),
        spec_of(model, seed=2, steps=4, guidance_scale=7.0),
        spec_of(model, seed=3, steps=3, sampler="flow_dpmpp_2m"),
        spec_of(model, seed=4, steps=4, negative_prompt="blue", prompt="two green stars"),
    ]
    engine = open_engine(model, specs[0].group(), shop.settings, 4)
    engine.admit(list(enumerate(specs)))
    ended = []
    for steps in range(1, 5):
        ended.append(sorted(result.ticket for result in engine.step()))
        assert engine.steps == steps
    assert ended == [[], [0], [2], [1, 3]]
    assert (engine.busy, engine.room()) == (False, 4)
    assert engine.step() == []
    assert engine.steps == 4


def test_an_image_that_comes_late_joins_at_once(shop: Shop, model: Model) -> None:
    engine = open_engine(model, spec_of(model).group(), shop.settings)
    expected = hashes(render(engine, [spec_of(model, seed=2)]))
    engine.admit([(1, spec_of(model, steps=3))])
    engine.step()
    engine.admit([(2, spec_of(model, seed=2))])
    assert engine.room() == 0
    with pytest.raises(ValueError, match="free slots"):
        engine.admit([(3, spec_of(model))])
    assert engine.step() == []
    both = sorted(engine.step(), key=lambda result: result.ticket)
    assert [result.ticket for result in both] == [1, 2]
    assert hashes(both[1:]) == expected


def test_a_cancelled_image_does_not_disturb_its_neighbour(shop: Shop, model: Model) -> None:
    specs = [spec_of(model, seed=1), spec_of(model, seed=2)]
    engine = open_engine(model, specs[0].group(), shop.settings)
    expected = hashes(render(engine, specs))
    engine.admit(list(enumerate(specs)))
    engine.step()
    assert engine.cancel([0, 7]) == [0]
    assert engine.room() == 1
    [result] = engine.step()
    assert result.ticket == 1
    assert hashes([result]) == [expected[1]]


def test_a_call_ends_where_its_image_is_dropped(
    shop: Shop, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    pipeline = type(model.pipeline)
    call = pipeline.__call__

    @wraps(call)
    def watched(self: Any, **options: Any) -> Any:
        try:
            return call(self, **options)
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    monkeypatch.setattr(pipeline, "__call__", watched)
    engine = open_engine(model, spec_of(model).group(), shop.settings)
    for drop in (lambda: engine.cancel([1]), engine.abandon):
        engine.admit([(1, spec_of(model, steps=50))])
        engine.step()
        ended.clear()
        assert drop() == [1]
        assert ended == ["GreenletExit"]
        assert (engine.busy, engine.room()) == (False, SLOTS)
    # Before its first pass, too.
    engine.admit([(1, spec_of(model))])
    assert engine.abandon() == [1]
    assert isinstance(render(engine, [spec_of(model)])[0], Rendered)


def test_two_engines_of_one_model_do_not_meet(shop: Shop, model: Model) -> None:
    group = spec_of(model).group()
    one, other = (open_engine(model, group, shop.settings) for _ in range(2))
    expected = hashes(render(one, [spec_of(model, steps=3)]))
    one.admit([(1, spec_of(model, steps=3))])
    other.admit([(1, spec_of(model, steps=2, sampler="flow_heun"))])
    one.step()
    other.step()
    one.step()
    assert hashes(one.step()) == expected
    other.abandon()


def test_what_torch_keeps_for_a_thread_is_the_callers_in_every_slot(
    shop: Shop, model: Model
) -> None:
    """Calls are begun and end in no order, and each puts back what it found."""
    engine = open_engine(model, spec_of(model).group(), shop.settings)
    with torch.enable_grad():
        engine.admit([(1, spec_of(model, steps=2))])
        assert torch.is_grad_enabled()
        engine.step()
        engine.admit([(2, spec_of(model, steps=2, seed=2))])
        [first] = engine.step()
        assert torch.is_grad_enabled()
        [second] = engine.step()
        assert torch.is_grad_enabled()
    assert (first.ticket, second.ticket) == (1, 2)


def test_the_environment_says_what_rendered(shop: Shop, model: Model) -> None:
    environment = open_engine(model, spec_of(model).group(), shop.settings).environment
    assert environment.document()["engine"] == "slots"


@pytest.mark.parametrize("name", ["qwen_image", "z_image"])
def test_texts_of_many_lengths_fill_their_passes(name: str, shop: Shop) -> None:
    model = shop.model(name)
    prompts = ["", "a red circle", "two green stars on a white background", "snow " * 12]
    specs = [
        spec_of(model, prompt=prompts[n % 4], seed=n, steps=1 + n % 4, guidance_scale=2.0 + n)
        for n in range(16)
    ]
    engine = open_engine(model, specs[0].group(), shop.settings)
    waiting, results, most = list(enumerate(specs)), {}, 0
    while waiting or engine.busy:
        while waiting and engine.room():
            engine.admit([waiting.pop(0)])
        most = max(most, len(waiting) and 16 - len(waiting) - len(results))
        results |= {result.ticket: result for result in engine.step()}
    calls = sum(spec.steps for spec in specs) * (2 if name == "qwen_image" else 1)
    # More images than places are under way, so that passes are full until nearly the end.
    assert SLOTS < most <= 3 * SLOTS
    assert calls / engine.steps > 0.85 * SLOTS
    backwards = render(engine, specs[::-1])[::-1]
    assert hashes([results[n] for n in range(16)]) == hashes(backwards)


def test_a_pipeline_that_refuses_two_images_renders_one_in_a_pass(
    shop: Shop, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = type(model.pipeline)
    call = pipeline.__call__

    @wraps(call)
    def one_only(self: Any, **options: Any) -> Any:
        if len(options["prompt"]) > 1:
            raise ValueError("one image only")
        return call(self, **options)

    specs = [spec_of(model, seed=seed) for seed in (1, 2)]
    usual = render(open_engine(model, specs[0].group(), shop.settings, 1), specs)
    monkeypatch.setattr(pipeline, "__call__", one_only)
    engine = open_engine(model, specs[0].group(), shop.settings)
    results = render(engine, specs)
    assert engine.steps == 4
    assert hashes(results) == hashes(usual)


@pytest.mark.parametrize("name", [QUICK, "qwen_image", "z_image"])
def test_it_can_be_certified(name: str, shop: Shop) -> None:
    model = shop.model(name)
    group = spec_of(model).group()
    verdict = certify(open_engine(model, group, shop.settings), group, model_name=name)

    assert [check.name for check in verdict.checks] == ["every slot", "shuffled neighbours"]
    assert verdict.holds


def test_b_is_tried_with_the_slot_engine_itself(shop: Shop, model: Model) -> None:
    group = spec_of(model).group()
    engine = open_engine(model, group, shop.settings, 4)
    assert probe(engine, group, model) > 0
    assert not engine.busy


@pytest.mark.parametrize("drawn", [True, False])
def test_on_a_gpu_b_is_found_if_the_model_draws_without_a_picture(
    drawn: bool, shop: Shop, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attempt(*_: object) -> float:
        if not drawn:
            raise UsageError("a picture is needed")
        return 1.0

    monkeypatch.setattr(slot_engine, "by_trying", lambda *_: True)
    monkeypatch.setattr(slot_engine, "probe", attempt)
    monkeypatch.setattr(slot_engine, "find_slots", lambda probed: int(4 * probed(2)))
    settings = shop.settings.model_copy(update={"slots": None})
    engine = open_engine(model, spec_of(model).group(), settings)
    assert engine.slots == (4 if drawn else CPU_SLOTS)
