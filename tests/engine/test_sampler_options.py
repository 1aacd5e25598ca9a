"""The options that submitting knows are those that diffusers' classes take."""

import inspect
from collections.abc import Mapping

import diffusers
import pytest

from imagemill.db.samplers.names import SAMPLERS
from imagemill.db.samplers.options import OPTIONS, TAKEN, WORDS, misfit
from imagemill.worker.engine import schedulers

_SPACING = {"set_alpha_to_one", "steps_offset", "timestep_spacing"}
_CLIPPING = {"clip_sample", "clip_sample_range", "sample_max_value", "thresholding"}
_IDLE: Mapping[str, set[str]] = {
    "DPMSolverMultistepScheduler": {"variance_type"},
    "DPMSolverSinglestepScheduler": {"variance_type"},
    "LCMScheduler": _SPACING,
    "SASolverScheduler": {"variance_type"},
    "TCDScheduler": _SPACING | _CLIPPING | {"dynamic_thresholding_ratio", "timestep_scaling"},
}
"""What these classes take and never read, or with no value that a row may have."""


@pytest.mark.parametrize("name", sorted({sampler.diffusers_class for sampler in SAMPLERS}))
def test_the_table_agrees_with_diffusers(name):
    parameters = inspect.signature(getattr(diffusers, name)).parameters
    assert TAKEN[name] == {o for o in OPTIONS if o in parameters} - _IDLE.get(name, set())


@pytest.mark.parametrize("name", sorted(TAKEN))
def test_every_word_that_fits_is_what_the_class_works_with(name):
    made = getattr(diffusers, name)
    for option in TAKEN[name]:
        words = OPTIONS[option]
        for word in words if isinstance(words, tuple) else ():
            # Those two can't end at zero.
            end = {"final_sigmas_type": "sigma_min"} if word.endswith("dpmsolver") else {}
            if misfit(name, option, word) is None:
                assert made(**{option: word}, **end).config[option] == word
            else:
                assert (name, option) in WORDS


def test_a_word_for_another_sampler_is_told():
    assert misfit("DPMSolverMultistepScheduler", "solver_type", "bh2") == (
        "solver_type = 'bh2'",
        "solver_type: heun, midpoint for this sampler",
    )
    assert misfit("SASolverScheduler", "algorithm_type", "dpmsolver++") is not None


def test_what_a_sampler_does_not_take_is_told():
    assert misfit("DDIMScheduler", "clip_sample", True) is None
    assert misfit("DDIMScheduler", "sigmas", "default") is None
    assert misfit("EulerDiscreteScheduler", "sigmas", "beta") is None
    assert misfit("DDIMScheduler", "sigmas", "karras") == (
        "sigmas = 'karras'",
        "sigmas: default for this sampler",
    )
    assert misfit("DDIMScheduler", "solver_order", 2) is not None
    assert misfit("SomebodysScheduler", "solver_order", 2) is None, "unknown: the worker decides"


def schedules_of(kind, monkeypatch):
    """How many steps each schedule has that schedulers of this kind compute from now on."""
    computed, compute = [], kind.set_timesteps

    def counted(self, number, *arguments, **options):
        computed.append(number)
        compute(self, number, *arguments, **options)

    monkeypatch.setattr(kind, "set_timesteps", counted)
    monkeypatch.setattr(schedulers, "_MADE", {})
    return computed


def test_equal_schedulers_are_made_once_and_each_image_has_its_own(monkeypatch):
    """diffusers takes a tenth of a second for one of K-DPM-2."""
    computed = schedules_of(diffusers.KDPM2DiscreteScheduler, monkeypatch)
    config = {"num_train_timesteps": 1000, "beta_schedule": "linear"}
    first, second, third = (
        schedulers.make_scheduler("kdpm2", {}, model_config=config, seed=seed) for seed in range(3)
    )
    assert computed == [1000]
    first.set_timesteps(5)
    assert len(first.timesteps) < len(second.timesteps) == len(third.timesteps)
    other = schedulers.make_scheduler("kdpm2", {"beta_end": 0.1}, model_config=config, seed=1)
    assert other.config.beta_end != third.config.beta_end
    assert computed == [1000, 5, 1000]


def test_equal_schedulers_of_a_brownian_tree_differ_in_their_seeds_alone(monkeypatch):
    """diffusers takes 20 milliseconds for one: a small model draws a step meanwhile."""
    computed = schedules_of(diffusers.DPMSolverSDEScheduler, monkeypatch)
    config = {"num_train_timesteps": 1000, "beta_schedule": "linear"}
    seeds = [7, 0, 2**64 - 1]
    copies = [
        schedulers.make_scheduler("dpmpp_sde", {}, model_config=config, seed=seed) for seed in seeds
    ]
    assert computed == [1000]
    assert [each.noise_sampler_seed for each in copies] == seeds
    assert [each.config.noise_sampler_seed for each in copies] == seeds
