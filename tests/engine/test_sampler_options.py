"""The options that submitting knows are those that diffusers' classes take."""

import inspect

import diffusers
import pytest

from imagemill.db.samplers.names import SAMPLERS
from imagemill.db.samplers.options import OPTIONS, TAKEN, misfit


@pytest.mark.parametrize("name", sorted({sampler.diffusers_class for sampler in SAMPLERS}))
def test_the_table_agrees_with_diffusers(name):
    parameters = inspect.signature(getattr(diffusers, name)).parameters
    assert TAKEN[name] == {option for option in OPTIONS if option in parameters}


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
