"""Guidance for a part of an image's steps only (arXiv 2404.07724), for pipelines of any family.

A pipeline decides once whether it guides. So in the other steps it gets the prompt's prediction in
the place of the negative one: what it then computes, `negative + scale * (prompt - negative)`, is
the prompt's prediction itself.

Most pipelines make one call a step, of two rows an image. A few make two calls, the prompt's first;
then the second is answered without a pass.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.slots.merging import Call

_PROMPT_FIRST = frozenset({"ZImageTransformer2DModel", "LuminaNextDiT2DModel"})
"""Denoisers whose pipelines put the prompt's row before the negative one's."""

_PICTURES = ("sample", "hidden_states", "x")
"""The names that denoisers give to their latents."""


class GuidanceInterval:
    """Follows the denoiser calls of one image, in the pipeline made for it."""

    def __init__(self, spec: ImageSpec, pipeline: Any) -> None:
        self._spec = spec
        self._pipeline = pipeline
        self._step = -1
        self._plain = False
        self._prompts_answer: Any = None

    def follow(self, module: torch.nn.Module, call: Call, wait: Callable[[], Any]) -> Any:
        """What the pipeline is to see as a call's answer; `wait` has the call made."""
        single = _rows(call) == 1
        if single and self._prompts_answer is not None:
            answer, self._prompts_answer = self._prompts_answer, None
            return answer if self._plain else wait()
        self._step += 1
        self._plain = not self._spec.guided_at(self._step, self._steps())
        answer = wait()
        if single:
            self._prompts_answer = answer
            return answer
        return _both(answer, type(module).__name__ in _PROMPT_FIRST) if self._plain else answer

    def _steps(self) -> int:
        """The denoising steps of the pipeline's loop."""
        steps = getattr(self._pipeline, "_num_timesteps", None)
        return int(steps or len(self._pipeline.scheduler.timesteps))


def has_interval(spec: ImageSpec) -> bool:
    """Whether some of an image's steps are not guided although it is."""
    return spec.guided and (spec.guidance_start, spec.guidance_end) != (0, 1)


def _rows(call: Call) -> int:
    args, kwargs = call
    named: Mapping[str, Any] = kwargs
    latents = next((named[name] for name in _PICTURES if name in named), args[0] if args else None)
    return 1 if latents is None else len(latents)


def _both(answer: Any, prompt_first: bool) -> Any:
    """An answer of two rows with the prompt's row in both places."""
    if torch.is_tensor(answer):
        half = len(answer) // 2
        prompt = answer[:half] if prompt_first else answer[half:]
        return torch.cat([prompt, prompt])
    if isinstance(answer, dict):
        return type(answer)(**{key: _both(each, prompt_first) for key, each in answer.items()})
    if isinstance(answer, list) and len(answer) == 2 and torch.is_tensor(answer[0]):
        prompt = answer[0] if prompt_first else answer[1]
        return [prompt, prompt]
    return type(answer)(_both(each, prompt_first) for each in answer)
