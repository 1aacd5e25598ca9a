"""A family of models that are called alike, and the speed settings that it may lack."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from imagemill.db.models.registry_tables import Kind

NAMES = frozenset({"compile_regions", "fuse_projections", "vae_tiling", "vae_slicing"})
"""The speed settings that not every pipeline has the means for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """A family of models that are called alike.

    - `pipelines`: the diffusers classes that a `model_index.json` of the family names.
    - `where`: values that the denoiser's configuration must have besides.
    - `by_name_only`: only its Hub names tell it from another row of the same class.
    - `size`: the default width and height; None if the model's configuration says it.
    - `guidance`: the pipeline's argument that takes an image's guidance scale; None if it has none.
    - `dtype`: the precision that suits weights which are stored in fp32.
    - `lora`: whether diffusers loads a LoRA for these pipelines.
    - `lacks`: the speed settings of `NAMES` that its modules have no means for.
    - `hub_names`: repositories that people use. The first row that has the name is the family.
    """

    name: str
    title: str
    pipelines: tuple[str, ...]
    kind: Kind = "generic"
    where: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    by_name_only: bool = False
    size: int | None = 1024
    steps: int
    guidance_scale: float
    guidance: str | None = "guidance_scale"
    dtype: Literal["fp16", "bf16"] | None = "bf16"
    lora: bool = True
    lacks: frozenset[str] = frozenset()
    hub_names: tuple[str, ...] = ()

    def defaults(self, size: tuple[int, int]) -> dict[str, Any]:
        """The defaults for a registry entry. `size` is what the configuration says."""
        width, height = (self.size, self.size) if self.size is not None else size
        return {
            "width": width,
            "height": height,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
        }
