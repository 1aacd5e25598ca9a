"""A guided engine's image outside its guidance interval takes one row of a pass instead of two."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch

from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.guided.rows import assign_rows
from imagemill.worker.engine.guided.slot import Cohort, Slot
from imagemill.worker.engine.texts.conditions import Condition
from imagemill.worker.models.model import Model
from tests.engine.rendering import CAPTIONS, hashes, pixels_of, render, small_spec_for
from tools.parity.oracle import Oracle, worst_difference

SAMPLERS = ("ddim", "euler_a", "dpmpp_2m", "heun", "dpmpp_sde")
INTERVALS = ((0.0, 1.0), (0.2, 0.6), (0.0, 0.5), (0.5, 1.0), (0.9, 0.95))


def mixed(model: Model, count: int) -> list[ImageSpec]:
    """Rows of which four in five have a guidance interval."""
    return [
        small_spec_for(
            model,
            sampler=SAMPLERS[number // 2 % len(SAMPLERS)],
            steps=4 + number // 3 % 3,
            guidance_scale=2.0 + number % 4,
            guidance_start=INTERVALS[number % 5][0],
            guidance_end=INTERVALS[number % 5][1],
            seed=number,
            prompt=CAPTIONS[number % 4],
        )
        for number in range(count)
    ]


@contextmanager
def rows_of_passes(model: Model) -> Iterator[list[int]]:
    """The number of rows of every call of the model's U-Net."""
    unet, rows = type(model.components["unet"]), []
    forward = unet.forward

    def counted(self: object, sample: torch.Tensor, *args: object, **options: object) -> Any:
        rows.append(len(sample))
        return forward(self, sample, *args, **options)

    with mock.patch.object(unet, "forward", counted):
        yield rows


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_an_interval_has_the_same_bits_in_any_company(
    shapes64: Model, settings: Settings, slots: int
) -> None:
    # Ten rows have every sampler and every interval; twenty, other pairs of them too.
    specs = mixed(shapes64, 20 if slots == 4 else 10)
    engine = open_engine(shapes64, specs[0].group(), settings, slots)
    alone = [hashes(render(engine, [spec]))[0] for spec in specs]
    order = list(range(len(specs)))
    random.Random(1).shuffle(order)
    found = hashes(render(engine, [specs[number] for number in order]))
    assert [alone[number] for number in order] == found


def test_passes_hold_more_images_and_keep_their_shape(shapes64: Model, settings: Settings) -> None:
    spec = small_spec_for(shapes64, steps=10, guidance_start=0.2, guidance_end=0.4)
    engine = open_engine(shapes64, spec.group(), settings, 4)
    with rows_of_passes(shapes64) as rows:
        results = render(engine, [replace(spec, seed=seed) for seed in range(16)])
    assert set(rows) == {8}
    # It was 40 passes when each image took two rows in every step; 24 are the least.
    assert len(rows) <= 32
    assert hashes(results)[5] == hashes(render(engine, [replace(spec, seed=5)]))[0]


def test_images_without_an_interval_are_as_many_as_places(
    shapes64: Model, settings: Settings
) -> None:
    spec = small_spec_for(shapes64, steps=3)
    engine = open_engine(shapes64, spec.group(), settings, 4)
    assert engine.room() == 4
    engine.admit([(seed, replace(spec, seed=seed)) for seed in range(4)])
    assert engine.room() == 0
    outside = replace(spec, guidance_start=0.5)
    engine.abandon()
    engine.admit([(seed, replace(outside, seed=seed)) for seed in range(4)])
    assert engine.room() == 2
    engine.admit([(seed, replace(outside, seed=seed)) for seed in (4, 5)])
    assert engine.cancel([1]) == [1]
    assert engine.room() == 1
    assert sorted(engine.abandon()) == [0, 2, 3, 4, 5]
    assert engine.room() == 4


class Cut(Oracle):
    """diffusers' own pipeline, whose negative prompt becomes the prompt after two steps."""

    def _arguments(self, spec: ImageSpec) -> dict[str, Any]:
        return super()._arguments(spec) | {"callback_on_step_end": self._cut} | _TENSORS

    def _cut(self, _: object, step: int, __: object, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[1].repeat(2, 1, 1)
        return tensors


_TENSORS = {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}


def test_it_equals_diffusers_own_pipeline(shapes64: Model, settings: Settings) -> None:
    """The same bits as diffusers in calls of the engine's shape, and within 1 of 255 alone."""
    spec = small_spec_for(shapes64, steps=5, guidance_end=0.4)
    engine = open_engine(shapes64, spec.group(), settings, 4)
    company = [replace(spec, seed=seed) for seed in range(2, 8)]
    drawn = pixels_of(render(engine, [spec, *company])[0])
    assert worst_difference(drawn, Cut(shapes64).same_shape(spec, slots=4)) == 0
    assert worst_difference(drawn, Cut(shapes64).alone(spec)) <= 1
    assert worst_difference(drawn, Oracle(shapes64).alone(spec)) > 1


def cohort(model: Model, places: list[int], *, guiding: bool) -> Cohort:
    spec = small_spec_for(model, guidance_start=0.0 if guiding else 0.5)
    slots = [
        Slot(ticket=n, spec=spec, place=n, prompt=Condition(), negative=Condition(), cut=None)
        for n in places
    ]
    nothing = torch.zeros(len(places), 1, 1, 1)
    return Cohort(
        slots=slots,
        scheduler=None,
        timesteps=torch.zeros(8),
        latents=nothing,
        arguments={},
        calls=8,
    )


def test_rows_are_shared_only_where_there_are_more_images_than_places(shapes64: Model) -> None:
    def rows(*cohorts: Cohort) -> list[Any]:
        found = assign_rows(cohorts, places=4, rows_per_image=2)
        return [found[slot] for each in cohorts for slot in each.slots]

    # Each has the place of its number, as without an interval.
    assert rows(cohort(shapes64, [0, 3], guiding=False), cohort(shapes64, [1], guiding=True)) == [
        (4, 0),
        (7, 3),
        (5, 1),
    ]
    # The fifth is an image of place 0 too; place 1 is free.
    assert rows(cohort(shapes64, [0, 4], guiding=True)) == [(4, 0), (5, 1)]
    # Six images, one of them with two rows.
    shared = rows(
        cohort(shapes64, [0, 1, 4, 5, 6], guiding=False), cohort(shapes64, [2], guiding=True)
    )
    assert shared == [(4, None), (5, None), (0, None), (1, None), (3, None), (6, 2)]
