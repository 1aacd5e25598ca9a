"""A sampler's name and options → a diffusers scheduler, configured for one image.

Every image has its own scheduler object. A scheduler keeps state between steps: the image's
position in its schedule and, for multistep samplers, the last outputs of the denoiser.

Values that a sampler does not set come from the model's scheduler configuration (`clip_sample`,
`beta_schedule`, `prediction_type`, …). Without them DDIM and DDPM would clip the latents, which
spoils the image.
"""

import inspect
from collections.abc import Callable, Hashable, Mapping
from copy import deepcopy
from functools import cache, wraps
from types import MethodType
from typing import Any

import diffusers
import torch
from cachetools import LRUCache

from imagemill.db.errors import UsageError, first_line
from imagemill.db.samplers.configuration import sampler_config
from imagemill.db.samplers.names import BY_NAME, OWN, Sampler
from imagemill.db.specs import ImageSpec
from imagemill.worker.models.model import Model

Scheduler = Any
"""A diffusers scheduler. The library has no useful common type for it."""

_COEFFICIENTS: LRUCache[Hashable, float] = LRUCache(10_000)
_MADE: LRUCache[Hashable, Scheduler] = LRUCache(64)
_SEED = "noise_sampler_seed"


def make_scheduler(
    name: str,
    options: Mapping[str, str | float | int | bool],
    *,
    model_config: Mapping[str, Any],
    seed: int,
) -> Scheduler:
    """A new scheduler for one image; its timesteps are not set yet.

    `name` is a sampler's canonical name. `options` replaces configuration values (see
    `db.samplers.options.OPTIONS`). `seed` is the image's: DPM++ SDE draws its noise from a
    Brownian tree with a seed of its own and ignores the generator. Raises `UsageError` if the
    sampler does not suit the model, or an option does not suit the sampler.
    """
    sampler = BY_NAME[name]
    _check_suits(sampler, model_config)
    class_name = str(model_config.get("_class_name")) if sampler is OWN else sampler.diffusers_class
    scheduler_class: Any = getattr(diffusers, class_name, None)
    if scheduler_class is None:
        raise UsageError(f"sampler {name}: diffusers {diffusers.__version__} has no {class_name}")
    accepted = _parameters(scheduler_class)
    config = sampler_config(sampler, options, model_config=model_config, accepted=accepted)
    if _SEED in accepted:
        config[_SEED] = seed
    try:
        # Not by `from_config`: it looks through signatures for a millisecond to find these values.
        scheduler = _new(scheduler_class, {k: v for k, v in config.items() if k in accepted})
    except (ImportError, NotImplementedError, ValueError) as error:
        raise UsageError(f"sampler {name}: {first_line(error)}") from error
    # Bound methods: a deep copy of the scheduler gets its own.
    if hasattr(scheduler, "get_lms_coefficient"):
        scheduler.get_lms_coefficient = MethodType(_kept_lms_coefficient, scheduler)
    dense = config.get("use_beta_sigmas") or config.get("use_flow_sigmas")
    if dense and hasattr(scheduler, "set_begin_index"):
        scheduler.set_timesteps = MethodType(_from_the_first(scheduler_class), scheduler)
    if config.get("use_flow_sigmas") and not hasattr(scheduler, "scale_noise"):
        scheduler.scale_noise = MethodType(_scale_noise, scheduler)
    return scheduler


def scheduler_for(spec: ImageSpec, model: Model) -> Scheduler:
    """An image's scheduler with its timesteps set.

    Raises `UsageError` if the sampler does not allow that many steps.
    """
    scheduler = make_scheduler(
        spec.sampler,
        dict(spec.sampler_options),
        model_config=model.scheduler_config,
        seed=spec.seed,
    )
    try:
        scheduler.set_timesteps(spec.steps, device="cpu")
    except (ValueError, IndexError, ZeroDivisionError) as error:
        # Some samplers need a minimum of steps, and LCM has a maximum.
        raise UsageError(f"sampler {spec.sampler}, {spec.steps} steps: {error}") from error
    return scheduler


def steps_rows_alike(scheduler: Scheduler) -> bool:
    """Whether the scheduler's `step` gives a row of many the bits that it gives the row alone.

    It does where each operation is by element. DPM++ SDE is not like that: it draws the noise of
    a whole batch from one seed. Neither is dynamic thresholding, which sorts.
    """
    made_by: Callable[..., Any] = type(scheduler)
    seeded = _SEED in _parameters(made_by)
    return not seeded and not getattr(scheduler.config, "thresholding", False)


def step_arguments(
    scheduler: Scheduler,
    options: Mapping[str, str | float | int | bool],
    generator: torch.Generator,
) -> Mapping[str, Any]:
    """The arguments of `scheduler.step` besides output, timestep and sample.

    They are those that diffusers' pipelines pass: `eta` and `generator`, where `step` takes them.
    """
    accepted = _parameters(type(scheduler).step)
    arguments: dict[str, Any] = {}
    if "eta" in accepted:
        arguments["eta"] = float(options.get("eta", 0.0))
    if "generator" in accepted:
        arguments["generator"] = generator
    return arguments


def _new(scheduler_class: Callable[..., Scheduler], values: Mapping[str, Any]) -> Scheduler:
    """A new scheduler with these values: a copy of the first one that had them but for the seed.

    To make one of K-DPM-2 takes diffusers a tenth of a second, and every image has its own.
    """
    shared = {name: 0 if name == _SEED else value for name, value in values.items()}
    key = (scheduler_class, repr(sorted(shared.items())))
    if key not in _MADE:
        _MADE[key] = scheduler_class(**shared)
    scheduler = deepcopy(_MADE[key])
    if _SEED in values:
        scheduler.noise_sampler_seed = values[_SEED]
        scheduler.register_to_config(**{_SEED: values[_SEED]})
    return scheduler


@cache
def _from_the_first(scheduler_class: Any) -> Callable[..., None]:
    """A `set_timesteps` after which a scheduler begins at its first timestep.

    With many beta or flow sigmas the first two timesteps are the same whole number. diffusers then
    begins at the second, and its last step is behind the end of the schedule.
    """
    plain = scheduler_class.set_timesteps

    @wraps(plain)  # pipelines look at its parameters
    def set_timesteps(scheduler: Scheduler, *arguments: Any, **options: Any) -> None:
        plain(scheduler, *arguments, **options)
        scheduler.set_begin_index(0)

    return set_timesteps


def _kept_lms_coefficient(scheduler: Scheduler, order: int, t: int, current_order: int) -> float:
    """LMS's own coefficient, integrated once, and not at each step of each image.

    An integral takes SciPy milliseconds, as long as a small model takes for the step.
    """
    place = (scheduler.sigmas.numpy().tobytes(), order, t, current_order)
    if place not in _COEFFICIENTS:
        integrate = type(scheduler).get_lms_coefficient
        _COEFFICIENTS[place] = integrate(scheduler, order, t, current_order)
    return _COEFFICIENTS[place]


def _scale_noise(
    scheduler: Scheduler, sample: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """What pipelines of flow-matching models call to start from a picture.

    Only FlowMatch schedulers have it. With flow sigmas, the `add_noise` of others computes the
    same: (1 - sigma) * picture + sigma * noise.
    """
    noised: torch.Tensor = scheduler.add_noise(sample, noise, timestep)
    return noised


def _check_suits(sampler: Sampler, model_config: Mapping[str, Any]) -> None:
    model_class = str(model_config.get("_class_name", ""))
    prediction = model_config.get("prediction_type", "epsilon")
    flow = model_class.startswith("FlowMatch") or prediction == "flow_prediction"
    if sampler.flow and not flow:
        raise UsageError(
            f"sampler {sampler.name} integrates flow-matching models; this model predicts "
            f"{prediction}: choose another"
        )


@cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
