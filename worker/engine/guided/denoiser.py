"""One denoiser call for all slots, always with the same shape.

Even an empty slot is a row of the call. A call of fewer rows could run other kernels, and then an
image's bits would depend on how many neighbours it had.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from imagemill.worker.engine.guided.rows import Rows, assign_rows
from imagemill.worker.engine.guided.slot import Cohort, Slot
from imagemill.worker.engine.texts.conditions import Condition
from imagemill.worker.models.environment import Shapes
from imagemill.worker.models.model import Model

AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5
"""The scores that SDXL's refiner gets for the prompt and the negative prompt: diffusers' values."""


Index = slice | torch.Tensor
"""Rows of a call: a slice where they are neighbours."""


class Denoiser:
    """Calls one of a model's U-Nets for all slots at once.

    With guidance a call has 2B rows, else B; `rows` says which of them each image has. Nobody's
    row is a row of zeros with the condition `empty`. The arguments are kept from call to call and
    written into: a row's condition when another image takes the row, its latents and timestep each
    time.
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
        self._rows_per_image = 2 if guided else 1
        rows = self.rows
        self._held: list[tuple[Slot, bool] | None] = [None] * rows
        self._callers: list[tuple[Cohort, int, bool]] = []
        self._places: list[tuple[Index | None, Index]] = []
        self._paired = True
        self._sample = torch.zeros(
            rows, unet.config.in_channels, *cells, device=model.device, dtype=model.dtype
        ).contiguous(memory_format=model.tuning.memory_format)
        # U-Nets compute the sine of the timestep in fp32, whatever its type was.
        self._times = torch.zeros(rows, device=model.device, dtype=torch.float32)
        self._arguments: dict[str, Any] = {}
        self._sizes: dict[bool, torch.Tensor] = {}
        if empty.hidden is not None:
            self._arguments["encoder_hidden_states"] = empty.hidden.repeat(rows, 1, 1)
        if empty.pooled is not None:
            self._sizes = self._size_lines(empty.pooled)
            halves = [self._sizes[negative] for negative in (True, False)[-self._rows_per_image :]]
            self._arguments["added_cond_kwargs"] = {
                "text_embeds": empty.pooled.repeat(rows, 1),
                "time_ids": torch.stack(halves).repeat_interleave(shapes.slots, dim=0),
            }
        # The U-Net of an unconditional model has no such field.
        self._scale_width: int | None = unet.config.get("time_cond_proj_dim")
        if empty.hidden is not None and self._scale_width is not None:
            self._arguments["timestep_cond"] = self._embedded(1.0).repeat(rows, 1)

    @property
    def slots(self) -> int:
        """B, the number of images in one call."""
        return self._shapes.slots

    @property
    def rows_per_image(self) -> int:
        """How many rows an image needs in a guided step: 2, or 1 in an engine without guidance."""
        return self._rows_per_image

    @property
    def rows(self) -> int:
        """The number of rows of a call."""
        return self._rows_per_image * self._shapes.slots

    def __call__(self, cohorts: Sequence[Cohort]) -> list[tuple[torch.Tensor | None, torch.Tensor]]:
        """For each cohort, the outputs for its negative prompts and for its prompts.

        Each output has the shape (images, channels, height, width), in latent cells. Without
        guidance there may be none for the negative prompts.
        """
        self._seat(cohorts)
        for cohort, (negatives, prompts) in zip(cohorts, self._places, strict=True):
            latents, time = cohort.model_input(), float(cohort.timestep)
            self._sample[prompts], self._times[prompts] = latents, time
            if negatives is not None and not self._paired:
                self._sample[negatives], self._times[negatives] = latents, time
        if self._paired:
            slots = self._shapes.slots
            self._sample[:slots], self._times[:slots] = self._sample[slots:], self._times[slots:]
        with self._model.tuning.attending():
            output: torch.Tensor = self._unet(
                self._sample, self._times, **self._arguments, return_dict=False
            )[0]
        output = output.contiguous()
        return [
            (None if negatives is None else output[negatives], output[prompts])
            for negatives, prompts in self._places
        ]

    def _seat(self, cohorts: Sequence[Cohort]) -> None:
        """Give rows to these cohorts, unless they are those of the last call."""
        callers = [(cohort, len(cohort.slots), cohort.guiding) for cohort in cohorts]
        if callers == self._callers:
            return
        self._callers = callers
        rows = assign_rows(cohorts, places=self._shapes.slots, rows_per_image=self._rows_per_image)
        # Then each image has both rows of a place, and the halves of the call have equal latents.
        self._paired = None not in {negative for _, negative in rows.values()}
        self._places = [self._places_of(cohort, rows) for cohort in cohorts]
        here: list[tuple[Slot, bool] | None] = [None] * self.rows
        for slot, (prompt, negative) in rows.items():
            here[prompt] = (slot, False)
            if negative is not None:
                here[negative] = (slot, True)
        for row, taker in enumerate(here):
            if taker != self._held[row]:
                self._held[row] = taker
                self._fill(row, taker)

    def _places_of(self, cohort: Cohort, rows: Mapping[Slot, Rows]) -> tuple[Index | None, Index]:
        negatives = [rows[slot][1] for slot in cohort.slots]
        prompts = self._index([rows[slot][0] for slot in cohort.slots])
        known = [row for row in negatives if row is not None]
        return (self._index(known) if known else None), prompts

    def _index(self, rows: Sequence[int]) -> Index:
        if list(rows) == list(range(rows[0], rows[0] + len(rows))):
            return slice(rows[0], rows[0] + len(rows))
        return torch.tensor(rows).to(self._sample.device)

    def _fill(self, row: int, taker: tuple[Slot, bool] | None) -> None:
        """Give a row what stays the same from call to call, for a slot and its prompt or negative.

        Nobody's row becomes that of an empty slot.
        """
        if taker is None:
            condition, negative, scale = self._empty, row < self.rows - self._shapes.slots, 1.0
            self._sample[row], self._times[row] = 0, 0
        else:
            slot, negative = taker
            condition, scale = slot.prompt, slot.spec.guidance_scale
            if negative:
                condition = self._empty if slot.negative is None else slot.negative
        if condition.hidden is not None:
            self._arguments["encoder_hidden_states"][row] = condition.hidden[0]
        if condition.pooled is not None:
            described = self._arguments["added_cond_kwargs"]
            described["text_embeds"][row] = condition.pooled[0]
            described["time_ids"][row] = self._sizes[negative]
        if "timestep_cond" in self._arguments:
            self._arguments["timestep_cond"][row] = self._embedded(scale)[0]

    def _embedded(self, scale: float) -> torch.Tensor:
        assert self._scale_width is not None
        embedding = guidance_embedding(scale, self._scale_width)
        return embedding.to(self._model.device, self._model.dtype)

    def _size_lines(self, pooled: torch.Tensor) -> dict[bool, torch.Tensor]:
        """SDXL's conditioning on sizes, for the row of a negative prompt (True) and of a prompt.

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
        return {
            kind: torch.tensor(line, dtype=self._model.dtype).to(self._model.device)
            for kind, line in ((True, negative), (False, prompt))
        }


def guidance_embedding(scale: float, width: int) -> torch.Tensor:
    """The guidance scale as an embedding (1, width), computed as in diffusers.

    Guidance-distilled models (LCM) take the scale as an input and need no negative rows.
    """
    half = width // 2
    steps = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = (torch.tensor([scale - 1]) * 1000.0)[:, None] * steps[None, :]
    embedding = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    return torch.nn.functional.pad(embedding, (0, width % 2))
