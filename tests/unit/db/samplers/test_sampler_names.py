"""Sampler names, aliases and options, without torch."""

import pytest

from imagemill.db.samplers.names import SAMPLERS, find_sampler, strength_for
from imagemill.db.samplers.options import option_problem


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("Euler a", "euler_a"),
        ("euler_ancestral", "euler_a"),
        ("PLMS", "pndm"),
        ("DPMSolverMultistepScheduler", "dpmpp_2m"),
        ("LMSDiscreteScheduler", "lms"),
        ("UniPC", "unipc"),
        ("dpm++ sde karras", "dpmpp_sde_karras"),
    ],
)
def test_people_call_samplers_many_things(text: str, name: str) -> None:
    found = find_sampler(text)
    assert found is not None
    assert found.name == name


def test_every_name_and_display_means_its_own_sampler() -> None:
    for sampler in SAMPLERS:
        assert find_sampler(sampler.name) is sampler
        assert find_sampler(sampler.display) is sampler
    assert find_sampler("no such") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("eta", 0.3), ("eta", 1), ("sigmas", "karras"), ("solver_order", 3), ("thresholding", True)],
)
def test_a_good_option_has_no_problem(name: str, value: object) -> None:
    assert option_problem(name, value) is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("etta", 1, "did you mean eta?"),
        ("zzzz", 1, "one of eta, sigmas"),
        ("eta", True, "a number"),
        ("eta", float("nan"), "a number"),
        ("eta", -1, "from 0"),
        ("sigmas", "cosine", "karras"),
        ("solver_order", 2.5, "a whole number"),
        ("solver_order", 0, "a whole number from 1 to 3"),
        ("solver_order", 4, "a whole number from 1 to 3"),
        ("flow_shift", 0, "a number from 0.01"),
        ("thresholding", 1, "true or false"),
    ],
)
def test_a_bad_option_is_told_what_is_allowed(name: str, value: object, words: str) -> None:
    problem = option_problem(name, value)
    assert problem is not None
    assert words in " ".join(problem)


def test_a_start_step_is_never_lost_to_rounding() -> None:
    for steps in range(1, 120):
        for start in range(steps):
            assert int(steps * strength_for(steps=steps, start_step=start)) == steps - start
