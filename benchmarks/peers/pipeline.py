"""The pipeline as a user of diffusers writes it: lists of prompts with equal settings."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from benchmarks.peers.manifests import SIDE, Request

MODEL = Path(__file__).parents[2] / "worker" / "shapes64"

_SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_a": diffusers.EulerAncestralDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
}


class Script:
    """The small model in one thread, and the rows that its U-Net has computed."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        diffusers.logging.set_verbosity_error()
        diffusers.logging.disable_progress_bar()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
            MODEL, dtype=torch.float32, safety_checker=None, requires_safety_checker=False
        )
        self._pipeline.set_progress_bar_config(disable=True)
        self._config = self._pipeline.scheduler.config
        self.row_forwards = 0
        forward = self._pipeline.unet.forward

        def counted(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.row_forwards += len(sample)
            return forward(sample, *args, **kwargs)

        self._pipeline.unet.forward = counted

    def render(self, rows: Sequence[Request], folder: Path) -> None:
        """Render rows of equal settings as one list, and save each as a PNG."""
        first = rows[0]
        self._pipeline.scheduler = _SCHEDULERS[first.sampler].from_config(self._config)
        images = self._pipeline(
            prompt=[row.prompt for row in rows],
            generator=[torch.Generator().manual_seed(row.seed) for row in rows],
            num_inference_steps=first.steps,
            guidance_scale=first.guidance_scale,
            width=SIDE,
            height=SIDE,
        ).images
        for row, image in zip(rows, images, strict=True):
            image.save(folder / f"{row.id}.png")


def lists(rows: Sequence[Request], size: int) -> Iterator[list[Request]]:
    """Lists of at most `size` rows of equal settings."""
    groups: dict[object, list[Request]] = {}
    for row in rows:
        groups.setdefault(row.settings, []).append(row)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def parts(rows: Sequence[Request], size: int, count: int) -> list[list[list[Request]]]:
    """The lists for each of so many processes: the longest ones first, to whoever has least."""
    found: list[list[list[Request]]] = [[] for _ in range(count)]
    work = [0] * count
    for each in sorted(lists(rows, size), key=_work, reverse=True):
        place = work.index(min(work))
        found[place].append(each)
        work[place] += _work(each)
    return found


def _work(rows: Sequence[Request]) -> int:
    return len(rows) * rows[0].steps
