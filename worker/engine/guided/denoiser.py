"""One denoiser call for all slots, always with the same shape.

Even an empty slot is a row of the call. A call of fewer rows could run other kernels, and then an
image's bits would depend on how many neighbours it had.
"""

from collections.abc import Sequence
from typing import Any

import torch

from imagemill.worker.engine.guided.conditions import Condition
from imagemill.worker.engine.guided.slot import Cohort, Slot
from imagemill.worker.models.environment import Shapes
from imagemill.worker.models.model import Model

AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5
"""The scores that SDXL's refiner gets for the prompt and the negative prompt: diffusers' values."""


class Denoiser:
    """Calls one of a model's U-Nets for all slots at once.

    With guidance a call has 2B rows: first those of the negative prompts, then those of the
    prompts, in diffusers' order. An empty slot is a row of zeros with the condition `empty`.
    The arguments are kept from call to call and written into: a row's condition when another
    image takes the row, its latents and timestep each time.
    """

    def __init__(
        self,
        model: Model,
        unet: Any,
        *,
        shapes: Shapes,
        guided: bool,
        cells: tuple[int, int],
        empty: Condition,
    ) -> None:
        self._model = model
        self._unet = unet
        self._shapes = shapes
        self._empty = empty
        self._copies = 2 if guided else 1
        self._held: list[Slot | None] = [None] * shapes.slots
        rows = self._copies * shapes.slots
        self._sample = torch.zeros(
            rows, unet.config.in_channels, *cells, device=model.device, dtype=model.dtype
        ).contiguous(memory_format=model.tuning.memory_format)
        # U-Nets compute the sine of the timestep in fp32, whatever its type was.
        self._times = torch.zeros(rows, device=model.device, dtype=torch.float32)
        self._arguments: dict[str, Any] = {}
        if empty.hidden is not None:
            self._arguments["encoder_hidden_states"] = empty.hidden.repeat(rows, 1, 1)
        if empty.pooled is not None:
            self._arguments["added_cond_kwargs"] = {
                "text_embeds": empty.pooled.repeat(rows, 1),
                "time_ids": self._describe_sizes(empty.pooled),
            }
        # The U-Net of an unconditional model has no such field.
        self._scale_width: int | None = unet.config.get("time_cond_proj_dim")
        if empty.hidden is not None and self._scale_width is not None:
            self._arguments["timestep_cond"] = self._embedded(1.0).repeat(shapes.slots, 1)

    @property
    def slots(self) -> int:
        """B, the number of images in one call."""
        return self._shapes.slots

    def __call__(self, cohorts: Sequence[Cohort]) -> list[tuple[torch.Tensor | None, torch.Tensor]]:
        """For each cohort, the outputs for its negative prompts (None: no guidance) and prompts.

        Each output has the shape (images, channels, height, width), in latent cells.
        """
        self._take(cohorts)
        slots = self._shapes.slots
        sample, times = self._sample[:slots], self._times[:slots]
        for cohort in cohorts:
            sample[cohort.rows] = cohort.model_input()
            times[cohort.rows] = float(cohort.timestep)
        if self._copies == 2:
            self._sample[slots:], self._times[slots:] = sample, times
        tuning = self._model.tuning
        with tuning.attending():
            output: torch.Tensor = self._unet(
                self._sample, self._times, **self._arguments, return_dict=False
            )[0]
        output = output.contiguous()
        if self._copies == 1:
            return [(None, output[cohort.rows]) for cohort in cohorts]
        negatives, prompts = output[:slots], output[slots:]
        return [(negatives[cohort.rows], prompts[cohort.rows]) for cohort in cohorts]

    def _take(self, cohorts: Sequence[Cohort]) -> None:
        """Give each row the condition of the image that has it now."""
        here: list[Slot | None] = [None] * self._shapes.slots
        for cohort in cohorts:
            for slot in cohort.slots:
                here[slot.row] = slot
        for row, taker in enumerate(here):
            if taker is not self._held[row]:
                self._held[row] = taker
                self._condition(row, taker)

    def _condition(self, row: int, slot: Slot | None) -> None:
        prompt = self._empty if slot is None else slot.prompt
        self._write(row + (self._copies - 1) * self._shapes.slots, prompt)
        if self._copies == 2:
            negative = None if slot is None else slot.negative
            self._write(row, self._empty if negative is None else negative)
        if "timestep_cond" in self._arguments:
            scale = 1.0 if slot is None else slot.spec.guidance_scale
            self._arguments["timestep_cond"][row] = self._embedded(scale)[0]
        if slot is None:
            self._sample[row], self._times[row] = 0, 0

    def _write(self, row: int, condition: Condition) -> None:
        if condition.hidden is not None:
            self._arguments["encoder_hidden_states"][row] = condition.hidden[0]
        if condition.pooled is not None:
            self._arguments["added_cond_kwargs"]["text_embeds"][row] = condition.pooled[0]

    def _embedded(self, scale: float) -> torch.Tensor:
        assert self._scale_width is not None
        embedding = guidance_embedding(scale, self._scale_width)
        return embedding.to(self._model.device, self._model.dtype)

    def _describe_sizes(self, pooled: torch.Tensor) -> torch.Tensor:
        """SDXL's conditioning on sizes, one line for each row of a call.

        It says that the picture has its full size and is not cropped. The refiner gets an
        aesthetic score where the base gets the size a second time.
        """
        size = [self._shapes.height, self._shapes.width]
        negative: list[float] = [*size, 0, 0, *size]
        prompt = negative
        config = self._unet.config
        described = config.projection_class_embeddings_input_dim - pooled.shape[1]
        if described == (len(prompt) - 1) * config.addition_time_embed_dim:
            negative = [*size, 0, 0, NEGATIVE_AESTHETIC_SCORE]
            prompt = [*size, 0, 0, AESTHETIC_SCORE]
        slots = self._shapes.slots
        rows = [negative] * (self._copies - 1) * slots + [prompt] * slots
        return torch.tensor(rows, dtype=self._model.dtype).to(self._model.device)


def guidance_embedding(scale: float, width: int) -> torch.Tensor:
    """The guidance scale as an embedding (1, width), computed as in diffusers.

    Guidance-distilled models (LCM) take the scale as an input and need no negative rows.
    """
    half = width // 2
    steps = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = (torch.tensor([scale - 1]) * 1000.0)[:, None] * steps[None, :]
    embedding = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    return torch.nn.functional.pad(embedding, (0, width % 2))
