"""How denoiser calls are merged and taken apart, for calls of every shape that pipelines make."""

import contextvars
import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from greenlet import GreenletExit

from imagemill.worker.engine import Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.slots.engine import SlotEngine
from imagemill.worker.engine.slots.fiber import Fiber
from imagemill.worker.engine.slots.row_layout import Call, RowLayout, batched_leaves, structure
from imagemill.worker.engine.slots.text_lengths import TextLengths, with_padded_texts
from tests.engine.rendering import hashes, render
from tests.oracle.registered import Shop, spec_of


def call_of(images: int, *, timestep: float = 9.0, value: float = 1.0, ids: float = 0.0) -> Call:
    """A call as a guiding pipeline makes it: two rows an image, and something of every kind."""
    rows = 2 * images
    return (
        (torch.full((rows, 4), value), torch.tensor(timestep)),
        {
            "sizes": [[(1, 8, 8)]] * images,
            "added": {"time_ids": torch.full((rows, 6), value), "scale": None},
            "residuals": [torch.full((rows, 2, 2), value), torch.full((rows, 3), value)],
            "ids": torch.full((5, 3), ids),
            "mask": torch.zeros((rows, 7), dtype=torch.bool),
            "flag": False,
        },
    )


@pytest.fixture
def layout() -> RowLayout:
    return RowLayout(call_of(1), call_of(2))


def test_what_grows_with_the_images_is_found_wherever_it_is() -> None:
    assert batched_leaves(call_of(1), call_of(2)) == {
        (0, 0): 0,
        (1, "sizes"): None,
        (1, "added", "time_ids"): 0,
        (1, "residuals", 0): 0,
        (1, "residuals", 1): 0,
        (1, "mask"): 0,
    }
    assert structure(call_of(1)) == structure(call_of(2))


def test_calls_of_different_times_share_a_pass_and_those_of_different_ids_do_not(
    layout: RowLayout,
) -> None:
    usual = layout.signature(call_of(1))
    assert layout.signature(call_of(1, timestep=3.0, value=7.0)) == usual
    assert layout.signature(call_of(1, ids=1.0)) != usual
    changed = call_of(1)
    changed[1]["flag"] = True
    assert layout.signature(changed) != usual
    # Whatever a pipeline writes into a tensor that it passes again is seen.
    same = call_of(1)
    assert layout.signature(same) == usual
    same[1]["ids"] += 1
    assert layout.signature(same) != usual


def test_empty_places_are_constant_rows(layout: RowLayout) -> None:
    found = [
        layout.together([call_of(1, value=value, timestep=value)], images=3) for value in (5.0, 6.0)
    ]
    for args, kwargs in found:
        assert args[0].shape == (6, 4)
        assert (args[0][2:] == 0).all()
        assert args[1].tolist()[2:] == [0.0] * 4
        assert kwargs["sizes"] == [[(1, 8, 8)]] * 3
        assert kwargs["residuals"][1].shape == (6, 3)
        # A mask of zeros would leave nothing to attend to.
        assert kwargs["mask"][2:].all()
        assert kwargs["ids"].shape == (5, 3)
    assert [args[1].tolist()[:2] for args, _ in found] == [[5.0, 5.0], [6.0, 6.0]]


def test_every_image_gets_its_own_rows_of_whatever_comes_out(layout: RowLayout) -> None:
    out = torch.arange(6.0).reshape(6, 1)
    results = (out, [out * 10, out * 100], torch.tensor(3.0))
    first, second = layout.apart(results, count=2, images=3, rows=2)
    assert first[0].tolist() == [[0.0], [1.0]]
    assert second[1][1].tolist() == [[200.0], [300.0]]
    assert first[2] == 3.0
    sample = diffusers.models.unets.unet_2d.UNet2DOutput(sample=out)
    [_, other] = layout.apart(sample, count=2, images=3, rows=2)
    assert other.sample.tolist() == [[2.0], [3.0]]


def test_a_denoiser_of_lists_gives_lists_also_of_as_many_channels_as_rows() -> None:
    def lists(images: int) -> Call:
        return (), {"x": [torch.zeros(4, 8)] * images, "t": torch.zeros(images)}

    layout = RowLayout(lists(1), lists(2), multiple=32)
    rows = [torch.full((4, 8), float(n)) for n in range(4)]
    parts = layout.apart((rows,), count=2, images=4, rows=1)
    assert [len(part[0]) for part in parts] == [1, 1]
    assert parts[1][0][0] is rows[1]
    longer: Call = ((), {"x": [torch.zeros(31, 8)], "t": torch.zeros(1)})
    too_long: Call = ((), {"x": [torch.zeros(33, 8)], "t": torch.zeros(1)})
    assert layout.signature(longer) == layout.signature(lists(1))
    assert layout.signature(too_long) != layout.signature(lists(1))


def test_a_call_in_which_nothing_grows_is_not_merged() -> None:
    call: Call = ((torch.zeros(3),), {})
    with pytest.raises(ValueError, match="no argument"):
        RowLayout(call, call)


@pytest.mark.parametrize(("tokens", "padded"), [(1, 128), (128, 128), (129, 256), (1025, 2048)])
def test_a_masked_text_is_padded_by_its_own_length_alone(tokens: int, padded: int) -> None:
    lengths = TextLengths(masked=(("text", "mask"),))
    text = torch.ones(1, tokens, 3)
    _, given = with_padded_texts(((), {"text": text, "mask": None}), lengths)
    assert given["text"].shape == (1, padded, 3)
    assert given["mask"].sum() == tokens
    assert given["mask"][0, :tokens].all()


def test_a_fiber_stops_and_goes_on_and_is_ended_from_outside() -> None:
    word: contextvars.ContextVar[str] = contextvars.ContextVar("word", default="none")
    word.set("the caller's")
    ended: list[type] = []

    def count() -> str:
        try:
            total = fiber.wait("first") + fiber.wait("second")
        except BaseException as error:
            ended.append(type(error))
            raise
        return f"{total} {word.get()}"

    fiber = Fiber(count)
    fiber.resume()
    assert (fiber.request, fiber.ended) == ("first", False)
    fiber.resume(1)
    fiber.resume(2)
    assert (fiber.ended, fiber.take_result()) == (True, "3 the caller's")

    fiber = Fiber(count)
    fiber.resume()
    fiber.stop()
    assert fiber.ended
    assert ended == [GreenletExit]


def test_what_an_image_held_is_free_before_python_looks_for_garbage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures: list[weakref.ref[Any]] = []
    take = Fiber.take_result

    def watched(self: Fiber) -> Any:
        result = take(self)
        pictures.append(weakref.ref(result.images))
        return result

    monkeypatch.setattr(Fiber, "take_result", watched)
    shop = Shop(tmp_path, slots=2)
    model = shop.model("stable_diffusion_3")
    spec = spec_of(model)
    engine = open_engine(model, spec.group(), shop.settings)
    assert isinstance(engine, SlotEngine)
    gc.disable()
    try:
        engine.admit([(1, spec), (2, replace(spec, seed=2))])
        slots = [weakref.ref(slot) for slot in engine._slots]
        results: list[Any] = []
        while engine.busy:
            results += engine.step()
        assert len(results) == len(pictures) == 2
        assert [known() for known in (*slots, *pictures)] == [None] * 4
    finally:
        gc.enable()


# A pipeline of two denoisers ---------------------------------------------------------------


def _unet(seed: int) -> Any:
    torch.manual_seed(seed)
    return diffusers.UNet2DModel(
        sample_size=64,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )


class Twofold(diffusers.DiffusionPipeline):  # type: ignore[misc]  # diffusers has no types
    """Draws the first half of its steps with one denoiser, the second half with another."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__()
        self.register_modules(first=first, second=second)

    @torch.no_grad()
    def __call__(self, prompt: list[str], num_inference_steps: int, generator: list[Any]) -> Any:
        drawn = [torch.randn(1, 3, 64, 64, generator=each) for each in generator]
        latents = torch.cat(drawn)
        for step in range(num_inference_steps):
            denoiser = self.first if 2 * step < num_inference_steps else self.second
            latents = latents - 0.5 * denoiser(latents, torch.tensor(step), return_dict=False)[0]
        images = latents.clamp(0, 1).permute(0, 2, 3, 1).numpy()
        return diffusers.ImagePipelineOutput(images=images)


def test_a_pipeline_of_two_denoisers_has_two_meetings(tmp_path: Path) -> None:
    shop = Shop(tmp_path, slots=2)
    pipeline = Twofold(_unet(1), _unet(2))
    model = replace(shop.model("stable_diffusion_3"), pipeline=pipeline)
    specs = [spec_of(model, seed=n, steps=2 + 2 * (n % 2)) for n in range(4)]
    alone = render(open_engine(model, specs[0].group(), shop.settings, 1), specs)
    engine = open_engine(model, specs[0].group(), shop.settings, 2)
    results = render(engine, specs)

    assert engine.steps <= 8
    for one, other in zip(alone, results, strict=True):
        assert isinstance(one, Rendered)
        assert isinstance(other, Rendered)
        assert abs(one.pixels.astype(int) - other.pixels.astype(int)).max() <= 1
    assert hashes(results) == hashes(render(engine, specs[::-1]))[::-1]
