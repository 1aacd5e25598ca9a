"""One denoiser call for all slots, always with the same shape.

Even an empty slot is a row of the call. A call of fewer rows could run other kernels, and then an
image's bits would depend on how many neighbours it had.
"""

from collections.abc import Sequence
from typing import Any

import torch

from imagemill.worker.engine.guided.conditions import Condition
from imagemill.worker.engine.guided.slot import Slot
from imagemill.worker.models.environment import Shapes
from imagemill.worker.models.model import Model

AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5
"""The scores that SDXL's refiner gets for the prompt and the negative prompt: diffusers' values."""


class Denoiser:
    """Calls one of a model's U-Nets for all slots at once.

    With guidance a call has 2B rows: first those of the negative prompts, then those of the
    prompts, in diffusers' order. An empty slot is a row of zeros with the condition `empty`.
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
        self._guided = guided
        self._empty = empty
        self._empty_latents = torch.zeros(
            1, unet.config.in_channels, *cells, device=model.device, dtype=model.dtype
        )
        self._sizes = None if empty.pooled is None else self._describe_sizes(empty.pooled)

    def __call__(
        self, slots: Sequence[Slot | None]
    ) -> list[tuple[torch.Tensor | None, torch.Tensor]]:
        """For each slot, the outputs for its negative prompt (None without guidance) and prompt.

        Each output has the shape (1, channels, height, width), in latent cells.
        """
        rows = [self._empty_latents if slot is None else slot.model_input() for slot in slots]
        times = [0.0 if slot is None else float(slot.timestep) for slot in slots]
        copies = 2 if self._guided else 1
        tuning = self._model.tuning
        with tuning.attending():
            output: torch.Tensor = self._unet(
                torch.cat(rows * copies).contiguous(memory_format=tuning.memory_format),
                # U-Nets compute the sine of the timestep in fp32, whatever its type was.
                torch.tensor(times * copies, dtype=torch.float32).to(self._model.device),
                **self._conditions(slots),
                return_dict=False,
            )[0]
        parts = torch.split(output.contiguous(), 1)
        if not self._guided:
            return [(None, part) for part in parts]
        return list(zip(parts[: len(slots)], parts[len(slots) :], strict=True))

    def _conditions(self, slots: Sequence[Slot | None]) -> dict[str, Any]:
        prompts = [self._empty if slot is None else slot.prompt for slot in slots]
        negatives = []
        if self._guided:
            negatives = [
                self._empty if slot is None or slot.negative is None else slot.negative
                for slot in slots
            ]
        conditions = negatives + prompts
        if self._empty.hidden is None:
            return {}
        arguments: dict[str, Any] = {
            "encoder_hidden_states": torch.cat(
                [c.hidden for c in conditions if c.hidden is not None]
            )
        }
        if self._empty.pooled is not None:
            pooled = torch.cat([c.pooled for c in conditions if c.pooled is not None])
            arguments["added_cond_kwargs"] = {
                "text_embeds": pooled,
                "time_ids": self._sizes,
            }
        if self._unet.config.time_cond_proj_dim is not None:
            scales = [1.0 if slot is None else slot.spec.guidance_scale for slot in slots]
            arguments["timestep_cond"] = torch.cat(
                [guidance_embedding(s, self._unet.config.time_cond_proj_dim) for s in scales]
            ).to(self._model.device, self._model.dtype)
        return arguments

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
        rows = [negative] * (slots if self._guided else 0) + [prompt] * slots
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
