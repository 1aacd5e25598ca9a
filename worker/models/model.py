"""A loaded model: its components on their device, and what is known about them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from imagemill.db.models.facts import ModelFacts
from imagemill.db.models.registry_tables import Kind
from imagemill.worker.models.device import DTYPES, Precision
from imagemill.worker.models.pipelines import Pipeline
from imagemill.worker.models.tuning import Tuning


@dataclass(kw_only=True, slots=True)
class Model:
    """A model on its device, in evaluation mode.

    `components` are the torch modules and tokenizers by their names in diffusers. `refiner` is the
    U-Net for the end of the schedule, if there is one. `scheduler_config` is the model's own
    sampler configuration, `index` the options that its pipeline was saved with. `active_adapters`
    has the (digest, weight) of each active adapter; only the module `adapters` changes it.
    `controlnet` is the digest and the module of the ControlNet in use, and
    `active_ip_adapter` the (digest, scale) of the IP-Adapter in its denoiser: see `added`.
    `pipeline` is the whole pipeline of a model of kind `generic`, its sampler included.
    """

    name: str
    kind: Kind
    weights_digest: str
    device: torch.device
    precision: Precision
    facts: ModelFacts
    components: Mapping[str, Any]
    refiner: Any = None
    scheduler_config: Mapping[str, Any]
    index: Mapping[str, Any]
    tuning: Tuning = field(default_factory=Tuning)
    pipeline: Pipeline | None = None
    has_embeddings: bool = False
    active_adapters: tuple[tuple[str, float], ...] = ()
    controlnet: tuple[str, Any] | None = None
    active_ip_adapter: tuple[str, float] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The torch type of weights and activations."""
        return DTYPES[self.precision]

    @property
    def vae_precision(self) -> Precision:
        """The precision in which pictures are decoded."""
        vae = self.components.get("vae")
        dtype = self.dtype if vae is None else vae.dtype
        return next(name for name, known in DTYPES.items() if known == dtype)

    @contextmanager
    def using(self, name: str) -> Iterator[Any]:
        """A component on the device. With `offload`, it goes back to main memory afterwards.

        The components of a pipeline are fetched by hooks of their own (`tuning.tune`).
        """
        component = self.components[name]
        if not self.tuning.offload or self.pipeline is not None:
            yield component
            return
        component.to(self.device)
        try:
            yield component
        finally:
            component.to("cpu")
