"""Images that are stepped on together get the bits that each gets alone, with every sampler."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from imagemill.db.samplers.names import OWN, SAMPLERS, Sampler
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.guided.admission import begin, cohort_key
from imagemill.worker.engine.guided.initial_latents import InitialLatents
from imagemill.worker.engine.guided.slot import Cohort, Slot
from imagemill.worker.engine.inputs import no_inputs
from imagemill.worker.engine.texts.conditions import Condition
from imagemill.worker.models.device import Precision
from imagemill.worker.models.model import Model
from tests.engine.rendering import small_spec_for

STEPS = 6
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
ALONE = {"dpmpp_sde", "dpmpp_sde_karras"}
"""Samplers that draw the noise of a batch from one seed: their images never share a scheduler."""


def one(spec: ImageSpec, ticket: int) -> Slot:
    return Slot(
        ticket=ticket, spec=spec, place=ticket, prompt=Condition(), negative=Condition(), cut=None
    )


def rows_of(model: Model, sampler: Sampler) -> list[ImageSpec]:
    """Three images of one sampler; of two the guidance scale is the same."""
    first = replace(small_spec_for(model), sampler=sampler.name, steps=STEPS, guidance_start=0.2)
    return [
        replace(first, seed=seed, guidance_scale=scale)
        for seed, scale in ((1, 7.5), (2, 3.1), (3, 7.5))
    ]


def alone(
    model: Model, initial_latents: InitialLatents, specs: Sequence[ImageSpec]
) -> list[Cohort]:
    return [begin(one(spec, 0), model, initial_latents) for spec in specs]


def together(model: Model, initial_latents: InitialLatents, specs: Sequence[ImageSpec]) -> Cohort:
    first = begin(one(specs[0], 0), model, initial_latents)
    for ticket, spec in enumerate(specs[1:], start=1):
        assert begin(one(spec, ticket), model, initial_latents, cohort=first) is first
    return first


def outputs(number: int, images: int, dtype: torch.dtype, shape: Sequence[int]) -> Any:
    """What a denoiser might answer in this step, for the negative prompts and the prompts."""
    generator = torch.Generator().manual_seed(number)
    return torch.randn(2, images, *shape, generator=generator).to(dtype)


def starts_of(model: Model) -> InitialLatents:
    return InitialLatents(model, width=32, height=32, inputs=no_inputs, max_pixels=32 * 32)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    "sampler",
    [each for each in (*SAMPLERS, OWN) if each.name not in ALONE],
    ids=lambda each: each.name,
)
def test_a_cohort_steps_as_each_image_alone(
    shapes64: Model, sampler: Sampler, precision: Precision
) -> None:
    model = replace(shapes64, precision=precision)
    if sampler.flow:
        model = replace(model, scheduler_config=FLOW)
    initial_latents, specs = starts_of(model), rows_of(model, sampler)
    apart, cohort = alone(model, initial_latents, specs), together(model, initial_latents, specs)
    number = 0
    while not cohort.finished:
        assert torch.equal(cohort.latents, torch.cat([each.latents for each in apart]))
        assert torch.equal(cohort.model_input(), torch.cat([each.model_input() for each in apart]))
        negative, prompt = outputs(number, len(apart), model.dtype, cohort.latents.shape[1:])
        cohort.advance(negative, prompt)
        for place, each in enumerate(apart):
            each.advance(negative[place : place + 1], prompt[place : place + 1])
        number += 1
        if number == 3:  # what the sampler remembers of the others goes with them
            cohort.leave(cohort.slots[1])
            del apart[1]
    assert torch.equal(cohort.latents, torch.cat([each.latents for each in apart]))
    assert cohort.latents.isfinite().all()
    assert all(each.finished for each in apart)


@pytest.mark.parametrize("name", sorted(ALONE))
def test_a_sampler_with_one_seed_for_a_batch_takes_no_company(shapes64: Model, name: str) -> None:
    sampler = next(each for each in SAMPLERS if each.name == name)
    initial_latents, specs = starts_of(shapes64), rows_of(shapes64, sampler)
    first = begin(one(specs[0], 0), shapes64, initial_latents)
    assert begin(one(specs[1], 1), shapes64, initial_latents, cohort=first) is not first


def test_what_is_an_images_own_keeps_it_alone(shapes64: Model) -> None:
    spec = small_spec_for(shapes64)
    ground = cohort_key(spec)
    assert ground is not None
    assert cohort_key(replace(spec, seed=9, prompt="x", guidance_scale=2.0)) == ground
    for other in (
        replace(spec, steps=spec.steps + 1),
        replace(spec, sampler="lms"),
        replace(spec, sampler_options=(("eta", 0.5),)),
        replace(spec, guidance_end=0.5),
    ):
        assert cohort_key(other) not in {None, ground}
    for lonely in (
        replace(spec, guidance_rescale=0.7),
        replace(spec, init_image="0" * 64),
        replace(spec, refiner_start=0.8),
    ):
        assert cohort_key(lonely) is None


def test_neighbours_in_time_make_one_cohort_and_scattered_rows_are_found(
    shapes64: Model, settings: Settings
) -> None:
    """Rows 1 and 3 are free when the second pair begins: a cohort need not be in one piece."""
    spec = replace(small_spec_for(shapes64), sampler="euler_a", guidance_scale=4.0)
    rows = [replace(spec, seed=n, steps=4 if n % 2 else 7) for n in range(4)]
    later = [replace(spec, seed=n, steps=5) for n in (10, 11)]
    engine = open_engine(shapes64, spec.group(), settings, 4)
    engine.admit(list(enumerate(rows)))
    found = {}
    while engine.busy:
        for result in engine.step():
            found[result.ticket] = result.pixels.tobytes()
        if engine.room() == 2 and 10 not in found and not {10, 11} & set(engine.tickets):
            engine.admit([(each.seed, each) for each in later])
    for ticket, alone_spec in [*enumerate(rows), *((each.seed, each) for each in later)]:
        engine.admit([(0, alone_spec)])
        pixels = b""
        while engine.busy:
            for result in engine.step():
                pixels = result.pixels.tobytes()
        assert found[ticket] == pixels, ticket
