"""Slots: what is rendered does not depend on where, when and beside whom."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from imagemill.db.errors import ModelError, OutOfMemory, RenderError, UsageError
from imagemill.db.settings import Settings
from imagemill.db.states import Outcome
from imagemill.worker.engine import Failed, Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.guided.engine import GuidedEngine
from imagemill.worker.engine.guided.factory import probe
from imagemill.worker.engine.pictures import Decoder
from imagemill.worker.engine.shapes import even, find_slots
from imagemill.worker.models.model import Model
from tests.engine.rendering import CAPTIONS, hashes, render, small_spec_for

SAMPLERS = ("ddim", "euler_a", "dpmpp_2m", "heun", "unipc", "pndm", "dpmpp_2m_sde", "kdpm2_a")


def _mixed(model: Model) -> list:
    return [
        small_spec_for(
            model,
            sampler=SAMPLERS[number % len(SAMPLERS)],
            steps=4 + number % 5,
            guidance_scale=1.5 + number % 4,
            seed=number,
            prompt=CAPTIONS[number % 4],
        )
        for number in range(12)
    ]


def test_pixels_do_not_depend_on_order_slot_or_neighbours(
    shapes64: Model, settings: Settings
) -> None:
    specs = _mixed(shapes64)
    in_order = hashes(render(open_engine(shapes64, specs[0].group(), settings, 4), specs))
    shuffled = list(range(len(specs)))
    random.Random(3).shuffle(shuffled)
    engine = open_engine(shapes64, specs[0].group(), settings, 4)
    results = hashes(render(engine, [specs[number] for number in shuffled]))

    assert [results[shuffled.index(number)] for number in range(len(specs))] == in_order
    # Alone, every other slot empty.
    assert hashes(render(engine, [specs[5]])) == [in_order[5]]


def test_a_nan_neighbour_changes_nothing(shapes64: Model, settings: Settings) -> None:
    spec = small_spec_for(shapes64)
    engine = open_engine(shapes64, spec.group(), settings, 4)
    expected = hashes(render(engine, [spec]))

    # An infinite scale makes the neighbour NaN from its first step on.
    poison = small_spec_for(shapes64, guidance_scale=float("inf"), seed=2)
    bad, good = render(engine, [poison, spec])

    assert hashes([good]) == expected
    assert isinstance(bad, Rendered)
    assert bad.outcome is Outcome.NAN
    assert not bad.pixels.any()


def test_the_slot_of_a_finished_image_is_filled_again(shapes64: Model, settings: Settings) -> None:
    specs = [small_spec_for(shapes64, steps=steps, seed=steps) for steps in (2, 8, 2, 2, 2)]
    engine = open_engine(shapes64, specs[0].group(), settings, 2)
    render(engine, specs)

    # 8 calls for the long one; the four short ones passed through the other slot meanwhile.
    assert engine.steps == 8


def test_a_bad_image_fails_alone(shapes64: Model, settings: Settings) -> None:
    good = small_spec_for(shapes64)
    engine = open_engine(shapes64, good.group(), settings, 4)
    too_many = small_spec_for(shapes64, sampler="lcm", steps=60)
    flow = small_spec_for(shapes64, sampler="flow_euler")
    first, second, third = render(engine, [too_many, flow, good])

    assert isinstance(first, Failed)
    assert isinstance(first.error, UsageError)
    assert "lcm, 60 steps" in first.error.message
    assert isinstance(second, Failed)
    assert "flow-matching" in second.error.message
    assert isinstance(third, Rendered)
    assert third.outcome is Outcome.OK


def test_an_image_of_another_group_fails(shapes64: Model, settings: Settings) -> None:
    engine = open_engine(shapes64, small_spec_for(shapes64).group(), settings, 2)
    [result] = render(engine, [small_spec_for(shapes64, width=96)])

    assert isinstance(result, Failed)
    assert isinstance(result.error, ModelError)


def test_the_cut_part_of_a_long_prompt_is_reported(shapes64: Model, settings: Settings) -> None:
    prompt = "A  red circle, " * 8 + "on a Blue background"
    spec = small_spec_for(shapes64, prompt=prompt, steps=2)
    [result] = render(open_engine(shapes64, spec.group(), settings, 2), [spec])

    assert isinstance(result, Rendered)
    assert result.outcome is Outcome.TRUNCATED_PROMPT
    assert result.cut is not None
    assert prompt.endswith(result.cut)
    kept = prompt[: -len(result.cut)]
    short = small_spec_for(shapes64, prompt=kept, steps=2)
    [shortened] = render(open_engine(shapes64, spec.group(), settings, 2), [short])
    assert isinstance(shortened, Rendered)
    assert shortened.cut is None
    assert hashes([shortened]) == hashes([result])


def test_cancel_and_abandon_give_the_tickets_back(shapes64: Model, settings: Settings) -> None:
    spec = small_spec_for(shapes64)
    engine = open_engine(shapes64, spec.group(), settings, 4)
    engine.admit([(7, spec), (8, spec), (9, small_spec_for(shapes64, sampler="flow_euler"))])
    engine.step()

    assert engine.cancel([7, 99]) == [7]
    assert engine.room() == 3
    assert engine.abandon() == [8]
    assert not engine.busy
    assert engine.room() == 4


def test_more_images_than_room_is_a_mistake_of_the_caller(
    shapes64: Model, settings: Settings
) -> None:
    spec = small_spec_for(shapes64)
    engine = open_engine(shapes64, spec.group(), settings, 2)
    with pytest.raises(ValueError, match="3 images for 2"):
        engine.admit([(number, spec) for number in range(3)])


def test_out_of_memory_and_failing_passes_are_told_apart(
    shapes64: Model, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small_spec_for(shapes64)
    engine = open_engine(shapes64, spec.group(), settings, 2)
    engine.admit([(1, spec)])
    for raised, expected in (
        (torch.OutOfMemoryError("no room"), OutOfMemory),
        (RuntimeError("bad kernel"), RenderError),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(shapes64.components["unet"], "forward", _raising(raised))
            with pytest.raises(expected):
                engine.step()
    assert engine.abandon() == [1]


def _raising(error: Exception):
    def forward(*args: object, **kwargs: object) -> None:
        raise error

    return forward


def test_uniform_and_nan_latents_are_not_passed_for_pictures(shapes64: Model) -> None:
    decoder = Decoder(shapes64, rows=1)
    [picture] = decoder.pictures([torch.full((1, 4, 16, 16), torch.nan)])
    assert picture.outcome is Outcome.NAN
    pixels = Decoder(_without_vae(shapes64), rows=1)
    [flat] = pixels.pictures([torch.full((1, 3, 8, 8), 0.5)])
    assert flat.outcome is Outcome.BLANK
    assert np.unique(flat.pixels).tolist() == [191]


def _without_vae(model: Model) -> Model:

    return replace(model, components={"unet": model.components["unet"]})


def test_the_environment_names_what_pixels_depend_on(shapes64: Model, settings: Settings) -> None:
    group = small_spec_for(shapes64).group()
    two = open_engine(shapes64, group, settings, 2).environment
    again = open_engine(shapes64, group, settings, 2).environment
    four = open_engine(shapes64, group, settings, 4).environment

    assert two.fingerprint() == again.fingerprint()
    assert two.fingerprint() != four.fingerprint()
    assert two.document()["shapes"]["slots"] == 2
    assert two.changed(vae_dtype="bf16").fingerprint() != two.fingerprint()


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (2, 2), (3, 2), (9, 8)])
def test_b_is_even(asked: int, given: int) -> None:
    assert even(asked) == given


def test_slots_are_found_by_trying() -> None:
    tried = []

    def attempt(slots: int) -> float:
        tried.append(slots)
        if slots > 8:
            raise OutOfMemory
        return 1.0

    assert find_slots(attempt) == 8
    assert tried == [1, 2, 4, 8, 16]


def test_slots_that_gain_nothing_are_not_taken() -> None:
    # Two images take as long as one, four as long as twice two.
    seconds = {1: 1.0, 2: 1.0, 4: 2.0, 8: 4.0}
    assert find_slots(seconds.__getitem__) == 2


def test_on_a_gpu_b_is_tried_with_the_engine_itself(shapes64: Model, settings: Settings) -> None:
    # Any device may be asked to find its B; only a GPU does so by itself.
    group = small_spec_for(shapes64).group()
    tried = []

    def attempt(slots: int) -> float:
        tried.append(slots)
        engine = open_engine(shapes64, group, settings, slots)
        assert isinstance(engine, GuidedEngine)
        seconds = probe(engine, group, shapes64)
        assert seconds > 0
        assert not engine.busy
        return 1.0

    assert find_slots(attempt, largest=4) == 4
    assert tried == [1, 2, 4]


def test_a_model_that_does_not_fit_at_all_says_so() -> None:
    def attempt(slots: int) -> float:
        raise OutOfMemory(f"{slots} is too many")

    with pytest.raises(OutOfMemory):
        find_slots(attempt)
