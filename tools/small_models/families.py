"""Small pipelines of many families, with random weights, from their configurations alone.

What they draw is noise; that every part is there and wired as in the large ones is what counts.
64 x 64 pixels suit them all.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from tools.small_models import language_model_families, text_encoder_families

FIRST = (
    "flux_dev",
    "flux_schnell",
    "latent_consistency",
    "pixart_sigma",
    "qwen_image",
    "sana",
    "stable_diffusion_3",
    "z_image",
)
"""The first families, whose seeds are their places here: their weights stay what they were."""

FAMILIES: Mapping[str, Callable[[], Any]] = {
    **language_model_families.FAMILIES,
    **text_encoder_families.FAMILIES,
}


def build(name: str) -> Any:
    """A family's pipeline, with the same weights every time."""
    later = sorted(FAMILIES.keys() - set(FIRST))
    torch.manual_seed((*FIRST, *later).index(name))
    return FAMILIES[name]()
