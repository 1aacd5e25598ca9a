"""What a call is told of guidance: intervals of it, and pipelines that guide by an object."""

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from imagemill.db.errors import UsageError
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.inputs import no_inputs
from imagemill.worker.engine.slots.arguments import PipelineCalls
from imagemill.worker.engine.slots.guidance_interval import GuidanceInterval
from imagemill.worker.engine.slots.row_layout import Call

SPEC = ImageSpec(
    model="m",
    weights_digest="a" * 64,
    prompt="a red circle",
    seed=1,
    width=64,
    height=64,
    steps=4,
    guidance_scale=3.5,
    sampler="own",
    guidance_start=0.5,
)


class OmniGenTransformer2DModel(torch.nn.Module):
    """Only its name counts."""


class OtherTransformer(torch.nn.Module):
    """Of a pipeline that no table knows."""


def interval() -> GuidanceInterval:
    return GuidanceInterval(SPEC, SimpleNamespace(_num_timesteps=SPEC.steps))


def call_of(rows: int, value: float = 0.0) -> Call:
    return (), {"hidden_states": torch.full((rows, 3), value)}


@pytest.mark.parametrize(
    ("module", "half"), [(OmniGenTransformer2DModel(), "first"), (OtherTransformer(), "second")]
)
def test_the_prompts_row_is_where_the_pipeline_puts_it(module: torch.nn.Module, half: str) -> None:
    asked: list[str | None] = []

    def wait(wanted: str | None) -> Any:
        asked.append(wanted)
        return torch.tensor([[1.0], [2.0]])

    answer = interval().follow(module, call_of(2), wait)
    assert asked == [half]
    assert answer.flatten().tolist() == ([1.0, 1.0] if half == "first" else [2.0, 2.0])


def test_the_second_call_of_a_step_without_guidance_needs_no_pass() -> None:
    followed, passes = interval(), []

    def wait(_half: object) -> int:
        passes.append(len(passes))
        return passes[-1]

    answers = [
        followed.follow(OtherTransformer(), call_of(1, value=step), wait)
        for step in range(SPEC.steps)
        for _ in ("prompt", "negative")
    ]
    assert answers == [0, 0, 1, 1, 2, 3, 4, 5]
    followed.check_followed()


def test_a_pipeline_of_one_call_a_step_refuses_an_interval() -> None:
    followed = interval()
    followed.follow(OtherTransformer(), call_of(1, value=0), lambda _half: 0)
    with pytest.raises(UsageError, match="no guidance here that an interval could switch off"):
        followed.follow(OtherTransformer(), call_of(1, value=1), lambda _half: 1)


def test_an_interval_that_saw_no_call_is_refused() -> None:
    with pytest.raises(UsageError, match="no guidance here"):
        interval().check_followed()


class Guided(diffusers.DiffusionPipeline):  # type: ignore[misc]  # diffusers has no types
    """Guides as HunyuanImage does."""

    def __init__(self, guider: Any) -> None:
        super().__init__()
        self.register_modules(guider=guider)

    def __call__(self, prompt: Any = None, distilled_guidance_scale: float = 3.25) -> None:
        raise NotImplementedError


def test_every_image_has_a_guider_of_its_own_with_its_own_scale() -> None:
    shared = diffusers.AdaptiveProjectedMixGuidance(guidance_scale=2.0)
    calls = PipelineCalls(Guided(shared), inputs=no_inputs, max_pixels=1)
    first, second = calls.call(SPEC), calls.call(SPEC)
    first.pipeline.guider.set_state(step=3, num_inference_steps=4, timestep=torch.tensor(1))
    assert (first.pipeline.guider.guidance_scale, shared.guidance_scale) == (3.5, 2.0)
    assert second.pipeline.guider._step is shared._step is None
    assert first.arguments["distilled_guidance_scale"] == 3.5
