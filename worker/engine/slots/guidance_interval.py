"""Guidance for a part of an image's steps only (arXiv 2404.07724), for pipelines of any family.

A pipeline decides once whether it guides. So in the other steps it gets the prompt's prediction in
the place of the negative one: what it then computes, `negative + scale * (prompt - negative)`, is
the prompt's prediction itself.

Most pipelines make one call a step, of two rows an image. A few make two calls, the prompt's first;
then the second is answered without a pass.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from imagemill.db.errors import UsageError
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.slots.row_layout import Call

Half = Literal["first", "second"]

_PROMPT_FIRST = frozenset(
    {"ZImageTransformer2DModel", "LuminaNextDiT2DModel", "OmniGenTransformer2DModel"}
)
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
        self._prompts_latents: Any = None

    def follow(
        self, module: torch.nn.Module, call: Call, wait: Callable[[Half | None], Any]
    ) -> Any:
        """What the pipeline is to see as a call's answer.

        `wait` has the call made. It is told which half of the rows is the prompt's if no other
        counts; an answer then has either all rows, or the prompt's in both halves. Raises
        `UsageError` if the pipeline does not guide.
        """
        latents = _latents(call)
        single = latents is None or len(latents) == 1
        if single and self._prompts_answer is not None:
            self._check_same_step(latents)
            answer, self._prompts_answer = self._prompts_answer, None
            return answer if self._plain else wait(None)
        self._step += 1
        self._plain = not self._spec.guided_at(self._step, self._steps())
        if single:
            self._prompts_latents = latents
            self._prompts_answer = wait(None)
            return self._prompts_answer
        if not self._plain:
            return wait(None)
        half: Half = "first" if type(module).__name__ in _PROMPT_FIRST else "second"
        return _both(wait(half), half)

    def check_followed(self) -> None:
        """After the pipeline's call: raise `UsageError` if the interval could have no effect."""
        if self._step < 0 or self._prompts_answer is not None:
            raise self._refusal()

    def _check_same_step(self, latents: Any) -> None:
        """Raise `UsageError` unless a step's second call has the latents of its first.

        Where it has not, it is the call of the next step: this pipeline makes one call a step.
        """
        first, self._prompts_latents = self._prompts_latents, None
        if torch.is_tensor(first) and torch.is_tensor(latents) and not torch.equal(first, latents):
            raise self._refusal()

    def _refusal(self) -> UsageError:
        name = type(self._pipeline).__name__
        return UsageError(f"{name} has no guidance here that an interval could switch off")

    def _steps(self) -> int:
        """The denoising steps of the pipeline's loop."""
        steps = getattr(self._pipeline, "_num_timesteps", None)
        return int(steps or len(self._pipeline.scheduler.timesteps))


def has_interval(spec: ImageSpec) -> bool:
    """Whether some of an image's steps are not guided although it is."""
    return spec.guided and (spec.guidance_start, spec.guidance_end) != (0, 1)


def _latents(call: Call) -> Any:
    """The latents of a call, (rows, …) or a list of rows; None if it has none that we know."""
    args, kwargs = call
    named: Mapping[str, Any] = kwargs
    return next((named[name] for name in _PICTURES if name in named), args[0] if args else None)


def doubled(answer: Any) -> Any:
    """An answer with every row of it twice: first all of them, then all again."""
    if torch.is_tensor(answer):
        return torch.cat([answer, answer])
    if isinstance(answer, dict):
        return type(answer)(**{key: doubled(each) for key, each in answer.items()})
    if _is_list_of_rows(answer):
        return [*answer, *answer]
    return type(answer)(doubled(each) for each in answer)


def _both(answer: Any, half: Half) -> Any:
    """An answer of two halves with one half in both places."""
    return doubled(_half(answer, first=half == "first"))


def _half(answer: Any, *, first: bool) -> Any:
    if torch.is_tensor(answer) or _is_list_of_rows(answer):
        middle = len(answer) // 2
        return answer[:middle] if first else answer[middle:]
    if isinstance(answer, dict):
        return type(answer)(**{key: _half(each, first=first) for key, each in answer.items()})
    return type(answer)(_half(each, first=first) for each in answer)


def _is_list_of_rows(answer: Any) -> bool:
    """Whether a denoiser answers with a tensor for each row (Z-Image)."""
    return isinstance(answer, list) and all(torch.is_tensor(each) for each in answer)
