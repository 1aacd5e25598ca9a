"""One denoiser call: always the same shape, whatever is in the slots."""

from collections.abc import Sequence
from typing import Any

import torch

from worker.engine.conditioning import Condition
from worker.engine.slot import Slot
from worker.environment import Shapes
from worker.models import Model


class Denoiser:
    """Calls a model's U-Net for all slots at once.

    With guidance a call has 2B rows, first the negative prompts', then the prompts', as diffusers
    orders them. An empty slot is a row of zeros with the condition `empty`.
    """

    def __init__(
        self,
        model: Model,
        *,
        shapes: Shapes,
        guided: bool,
        cells: tuple[int, int],
        empty: Condition,
    ) -> None:
        self._model = model
        self._unet: Any = model.components["unet"]
        self._shapes = shapes
        self._guided = guided
        self._empty = empty
        self._empty_latents = torch.zeros(
            1, self._unet.config.in_channels, *cells, device=model.device, dtype=model.dtype
        )

    def __call__(
        self, slots: Sequence[Slot | None]
    ) -> list[tuple[torch.Tensor | None, torch.Tensor]]:
        """For every slot the outputs for its negative prompt (if guided) and its prompt."""
        rows = [self._empty_latents if slot is None else slot.model_input() for slot in slots]
        times = [0.0 if slot is None else float(slot.timestep) for slot in slots]
        copies = 2 if self._guided else 1
        tuning = self._model.tuning
        with tuning.attending():
            output: torch.Tensor = self._unet(
                torch.cat(rows * copies).contiguous(memory_format=tuning.memory_format),
                # U-Nets take the sine of the timestep in fp32, whatever type it came in.
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
                "time_ids": self._size_ids(len(conditions)),
            }
        if self._unet.config.time_cond_proj_dim is not None:
            scales = [1.0 if slot is None else slot.spec.guidance_scale for slot in slots]
            arguments["timestep_cond"] = torch.cat(
                [guidance_embedding(s, self._unet.config.time_cond_proj_dim) for s in scales]
            ).to(self._model.device, self._model.dtype)
        return arguments

    def _size_ids(self, rows: int) -> torch.Tensor:
        """SDXL's conditioning on sizes: drawn at the full size, nothing cropped."""
        height, width = self._shapes.height, self._shapes.width
        ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=self._model.dtype)
        return ids.to(self._model.device).repeat(rows, 1)


def guidance_embedding(scale: float, width: int) -> torch.Tensor:
    """How a model distilled from guidance is told its scale: (1, width), as diffusers computes it.

    Such a model (an LCM) needs no negative row.
    """
    half = width // 2
    steps = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = (torch.tensor([scale - 1]) * 1000.0)[:, None] * steps[None, :]
    embedding = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    return torch.nn.functional.pad(embedding, (0, width % 2))
