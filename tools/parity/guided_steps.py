"""Guidance in some steps only, done to a pipeline from outside, without any of the engine's code.

In the other steps the denoiser gets the prompt's rows alone, and its answer counts for the negative
prompt as well: `negative + scale * (prompt - negative)` is then the prompt's prediction.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from imagemill.db.specs import ImageSpec
from tools.parity.pipeline_oracle import rows_of, taken_rows

_TWO_CALLS = frozenset({"chroma", "cogview_4", "flux_schnell", "lumina_2", "qwen_image"})
"""Families that call their denoiser twice a step: for the prompt, then for the negative one."""

_PROMPT_FIRST = frozenset({"z_image"})
"""Families of one call a step whose first half is the prompt's."""


@contextmanager
def guided_steps(pipeline: Any, family: str, spec: ImageSpec) -> Iterator[None]:
    """Guide only the steps that the specification's interval has."""
    components = pipeline.components
    denoiser = components.get("transformer") or components["unet"]
    before = vars(denoiser).get("forward")
    forward, calls, prompts = denoiser.forward, 0, None

    def step_of(call: int) -> int:
        return call // 2 if family in _TWO_CALLS else call

    def followed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls, prompts
        guided = spec.guided_at(step_of(calls), len(pipeline.scheduler.timesteps))
        calls += 1
        if family in _TWO_CALLS:
            if calls % 2 == 1 or guided:
                prompts = forward(*args, **kwargs)
            return prompts
        if guided:
            return forward(*args, **kwargs)
        rows = rows_of(args, kwargs)
        half = slice(0, rows // 2) if family in _PROMPT_FIRST else slice(rows // 2, rows)
        args, kwargs = taken_rows((args, kwargs), rows, half)
        answer = forward(*args, **kwargs)[0]
        return (torch.cat([answer] * 2) if torch.is_tensor(answer) else [*answer, *answer],)

    denoiser.forward = followed
    try:
        yield
    finally:
        del denoiser.forward
        if before is not None:
            denoiser.forward = before
