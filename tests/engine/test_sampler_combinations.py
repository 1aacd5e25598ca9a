"""What submitting lets through of samplers' options, diffusers can draw with.

Every sampler's class is tried with values of its options that are allowed beside each other, on a
latent of 4 x 8 x 8 without a model.
"""

import inspect
import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

import diffusers
import pytest
import torch

from imagemill.db.samplers.combinations import (
    CLASS_DEFAULTS,
    DEFAULTS,
    LEADING,
    combination_problem,
)
from imagemill.db.samplers.configuration import sampler_config
from imagemill.db.samplers.idle_options import idle_problem
from imagemill.db.samplers.names import BY_NAME, SAMPLERS
from imagemill.db.samplers.options import OPTIONS, TAKEN, misfit, option_problem
from imagemill.worker.engine.schedulers import make_scheduler, step_arguments

Options = Mapping[str, Any]

NUMBERS: Mapping[str, tuple[float, ...]] = {
    "eta": (0.0, 0.5, 1.0),
    "beta_start": (0.0, 0.0001, 0.1),
    "beta_end": (0.0, 0.02, 0.2, 2.0),
    "steps_offset": (0, 1, 999),
    "solver_order": (0, 1, 2, 3, 4),
    "clip_sample_range": (0.5, 4.0),
    "dynamic_thresholding_ratio": (0.5, 0.995, 2.0),
    "sample_max_value": (1.0, 3.0),
    "original_inference_steps": (0, 1, 2, 50, 2000),
    "shift": (0.0, 0.5, 3.0),
    "flow_shift": (0.0, 0.5, 3.0),
    "predictor_order": (0, 1, 2, 3, 4, 5),
    "corrector_order": (0, 1, 2, 3, 4, 5),
    "timestep_scaling": (1.0, 10.0),
    "num_train_timesteps": (0, 1, 4, 1000),
    "base_shift": (0.5,),
    "max_shift": (1.15,),
}
"""For each option with a number, usual values and some that can't be."""

BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
}
MODELS: Mapping[str, Options] = {
    "epsilon": {"_class_name": "PNDMScheduler", **BETAS},
    "v": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", **BETAS},
    "zero": {"_class_name": "DPMSolverMultistepScheduler", "final_sigmas_type": "zero", **BETAS},
    "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
}

NEEDS_MU = frozenset({"UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"})
"""Their schedule can't be made with `use_dynamic_shifting` unless a pipeline gives them a shift."""


def values_of(option: str) -> tuple[Any, ...]:
    allowed = OPTIONS[option]
    if isinstance(allowed, tuple):
        return allowed
    return (True, False) if allowed is bool else NUMBERS[option]


def allowed(name: str, options: Options, model: Options, steps: int) -> bool:
    """Whether submitting lets a row with these values through."""
    sampler = BY_NAME[name]
    kind = sampler.diffusers_class
    for option, value in options.items():
        if option_problem(option, value) or misfit(kind, option, value):
            return False
    config = sampler_config(sampler, options, model_config=model, accepted=TAKEN[kind])
    if config.get("use_dynamic_shifting") and kind in NEEDS_MU:
        return False
    return combination_problem(kind, config, steps=steps) is None


def draw(name: str, options: Options, model: Options, steps: int) -> torch.Tensor:
    """The latents at the end, for a denoiser that predicts noise."""
    generator = torch.Generator().manual_seed(0)
    scheduler = make_scheduler(name, options, model_config=model, seed=1)
    scheduler.set_timesteps(steps, device="cpu")
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    arguments = step_arguments(scheduler, options, generator)
    for time in scheduler.timesteps:
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(latents, time)
        output = torch.randn(1, 4, 8, 8, generator=generator) / 2
        latents = scheduler.step(output, time, latents, **arguments, return_dict=False)[0]
    return latents


def pairs_of(name: str) -> Iterator[Options]:
    """Every two values of two options of a sampler."""
    options = sorted(TAKEN[BY_NAME[name].diffusers_class] | {"eta", "sigmas"})
    single = [(option, value) for option in options for value in values_of(option)]
    for (one, first), (other, second) in itertools.combinations(single, 2):
        if one != other:
            yield {one: first, other: second}


def models_of(name: str) -> list[str]:
    return ["flow"] if BY_NAME[name].flow else ["epsilon", "v", "zero"]


ONE_OF_EACH = sorted({(s.diffusers_class, s.flow): s.name for s in reversed(SAMPLERS)}.values())
"""A sampler of each class, the one with the fewest options of its own."""

SLOW = frozenset({"kdpm2", "kdpm2_a", "dpmpp_sde"})
"""diffusers takes a tenth of a second to make one of them, or to draw with it."""


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_pairs_of_values_that_are_allowed_can_be_drawn_with(name: str) -> None:
    pairs = list(pairs_of(name))
    chosen = random.Random(name)  # the same pairs each time
    for options in chosen.sample(pairs, min(len(pairs), 5 if name in SLOW else 60)):
        model = MODELS[chosen.choice(models_of(name))]
        steps = chosen.choice((1, 2, 3, 5))
        if allowed(name, options, model, steps):
            assert draw(name, options, model, steps).isfinite().all(), (options, steps, model)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_every_sampler_draws_in_few_steps_and_in_many(sampler: Any) -> None:
    model = MODELS["flow" if sampler.flow else "epsilon"]
    slow = sampler.name.startswith(("kdpm2", "lms", "dpmpp_sde"))
    for steps in (1, 2) if slow else (1, 2, 70):
        assert allowed(sampler.name, {}, model, steps) or sampler.name in ("lcm", "tcd")
        if allowed(sampler.name, {}, model, steps):
            assert draw(sampler.name, {}, model, steps).isfinite().all(), steps


ALIKE = frozenset(
    {
        ("steps_offset", 0),  # diffusers' default, where another one would not count either
        ("lower_order_final", True),
        ("variance_type", "fixed_small_log"),  # DDPM's usual variance, by way of its logarithm
        ("use_dynamic_shifting", True),  # a pipeline must give a shift: `shift_problem`
    }
)
"""Values that are let through although the picture is the same."""

STEPS = 6
"""So many that each order of a solver has its turn."""


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_value_that_is_let_through_changes_the_picture(name: str) -> None:
    kind = BY_NAME[name].diffusers_class
    model = MODELS[models_of(name)[0]]
    usual = sampler_config(BY_NAME[name], {}, model_config=model, accepted=TAKEN[kind])
    defaults = inspect.signature(getattr(diffusers, kind)).parameters
    before = draw(name, {}, model, STEPS)
    idle, alike = [], []
    for option in sorted(TAKEN[kind]):
        for value in values_of(option):
            config = sampler_config(
                BY_NAME[name], {option: value}, model_config=model, accepted=TAKEN[kind]
            )
            if value == usual.get(option, defaults[option].default):
                continue
            if (option, value) in ALIKE or not allowed(name, {option: value}, model, STEPS):
                continue
            if idle_problem(kind, {option: value}, config):
                idle.append({option: value})
            elif torch.equal(draw(name, {option: value}, model, STEPS), before):
                alike.append({option: value})
    assert alike == []
    for options in idle if name not in SLOW else idle[:2]:
        assert torch.equal(draw(name, options, model, STEPS), before), options


@pytest.mark.parametrize("name", sorted(TAKEN))
def test_the_defaults_are_those_of_diffusers(name: str) -> None:
    parameters = inspect.signature(getattr(diffusers, name)).parameters
    for option, value in DEFAULTS.items():
        if option in parameters:
            assert parameters[option].default == CLASS_DEFAULTS.get((name, option), value), option
    if "timestep_spacing" in parameters:
        spacing = "leading" if name in LEADING else "linspace"
        assert parameters["timestep_spacing"].default == spacing
