"""What is known of diffusers' pipelines is what their source says."""

import inspect
import sys

import pytest

from imagemill.db.samplers.pipelines import WITHOUT_SHIFT, shift_problem

diffusers = pytest.importorskip("diffusers")

DYNAMIC = {"use_dynamic_shifting": True}
DPM = "DPMSolverMultistepScheduler"


def source_of(pipeline: str) -> str:
    return inspect.getsource(sys.modules[getattr(diffusers, pipeline).__module__])


@pytest.mark.parametrize("pipeline", sorted(WITHOUT_SHIFT))
def test_a_pipeline_without_a_shift_gives_none(pipeline: str) -> None:
    source = source_of(pipeline)
    assert "mu=mu" not in source
    assert '["mu"]' not in source
    found, allowed = shift_problem(pipeline, "FlowMatchEulerDiscreteScheduler", DYNAMIC) or ("", "")
    assert pipeline in found
    assert allowed == "use_dynamic_shifting: false"


def test_a_pipeline_with_a_shift_may_be_told_to_use_it() -> None:
    assert "mu=mu" in source_of("FluxPipeline")
    assert shift_problem("FluxPipeline", "FlowMatchEulerDiscreteScheduler", DYNAMIC) is None
    assert shift_problem("FluxPipeline", "FlowMatchEulerDiscreteScheduler", {}) is None
    assert shift_problem("FluxPipeline", DPM, DYNAMIC) is None


def test_a_dpm_solver_refuses_a_shift_that_it_was_not_made_for() -> None:
    solver = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction"
    )
    with pytest.raises(AssertionError):
        solver.set_timesteps(4, mu=0.5)
    assert shift_problem("FluxPipeline", DPM, {}) is not None
