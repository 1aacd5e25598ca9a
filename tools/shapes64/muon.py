"""Muon (Keller Jordan, 2024) for weight matrices and AdamW for everything else.

A matrix is moved along the orthogonalised momentum of its gradient; a convolution counts as the
matrix (out, in·height·width). On these small networks it needs about a third of AdamW's steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, from Jordan's write-up."""


def orthogonalised(matrices: Tensor, *, rounds: int = 5) -> Tensor:
    """Singular values pushed to about 1, for a batch of matrices (n, rows, columns)."""
    a, b, c = NEWTON_SCHULZ
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x: Tensor = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon:
    """Moves the matrices of some modules by Muon, their other parameters by AdamW.

    `peak` is Muon's learning rate and `peak_rest` AdamW's; `step(scale)` takes a share of both.
    """

    def __init__(
        self, modules: Iterable[nn.Module], *, peak: float, peak_rest: float, momentum: float = 0.95
    ) -> None:
        self.peak, self.peak_rest, self.momentum = peak, peak_rest, momentum
        rest: list[nn.Parameter] = []
        by_shape: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
        for module in modules:
            tables = {
                id(parameter)
                for part in module.modules()
                if isinstance(part, nn.Embedding)
                for parameter in part.parameters()
            }
            for parameter in module.parameters():
                if parameter.ndim < 2 or id(parameter) in tables:
                    rest.append(parameter)
                else:
                    by_shape[parameter.shape[0], parameter[0].numel()].append(parameter)
        self.matrices = list(by_shape.values())
        self.velocity = [
            torch.zeros(len(group), group[0].shape[0], group[0][0].numel())
            for group in self.matrices
        ]
        self.rest = torch.optim.AdamW(rest, lr=peak_rest, betas=(0.9, 0.98), weight_decay=0.0)

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """Take one step at this share of the peak learning rates, and forget the gradients."""
        for group, velocity in zip(self.matrices, self.velocity, strict=True):
            gradients = torch.stack([_gradient(parameter).flatten(1) for parameter in group])
            velocity.lerp_(gradients, 1 - self.momentum)
            update = orthogonalised(gradients.lerp(velocity, self.momentum))
            rows, columns = update.shape[-2:]
            update *= -self.peak * scale * max(1.0, rows / columns) ** 0.5
            for parameter, change in zip(group, update, strict=True):
                parameter.add_(change.view(parameter.shape))
                parameter.grad = None
        self.rest.param_groups[0]["lr"] = self.peak_rest * scale
        self.rest.step()
        self.rest.zero_grad(set_to_none=True)

    def state(self) -> dict[str, object]:
        """What a checkpoint has to hold to go on."""
        return {"velocity": self.velocity, "rest": self.rest.state_dict()}

    def restore(self, state: dict[str, object]) -> None:
        """Go on from a checkpoint's state."""
        velocity = state["velocity"]
        assert isinstance(velocity, list)
        self.velocity = velocity
        self.rest.load_state_dict(state["rest"])  # type: ignore[arg-type]  # torch checks it


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def warm_hold_cool(step: int, steps: int, *, warm: int = 30, cool: float = 0.6) -> float:
    """The share of the peak rate: a short rise, a plateau, then a line down to nothing."""
    rising = min(1.0, (step + 1) / warm)
    falling = min(1.0, (steps - step) / max(1.0, cool * steps))
    return min(rising, falling)
