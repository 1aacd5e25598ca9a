"""The small families of `tools.small_models.families`, saved, registered as generic, and loaded."""

from pathlib import Path
from typing import Any

import diffusers

from imagemill.db.models.registry import load_registry
from imagemill.db.samplers.names import SAMPLERS
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.worker.models.device import prepare_process
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from tools.small_models.families import FAMILIES, build

OTHER_SIGMAS = frozenset(
    sampler.name
    for sampler in SAMPLERS
    if set(sampler.options) & {f"use_{kind}_sigmas" for kind in ("karras", "exponential", "beta")}
)
"""Samplers that differ from another one in their sigmas alone.

Compared in the engine's shapes, as `make parity` compares all of them with one image alone, too.
"""


class Shop:
    """Every family in one folder. It is built and loaded when a test asks for it first."""

    def __init__(self, folder: Path, *, slots: int) -> None:
        self.folder = folder
        self.settings = Settings.load(
            models=folder / "models.toml",
            model_cache=folder / "cache",
            device="cpu",
            dtype="fp32",
            slots=slots,
        )
        prepare_process(self.settings)
        self._models: dict[str, Model] = {}
        self._pipelines: dict[str, Any] = {}
        self.register()

    def register(self, *tables: str) -> None:
        """Make the families and these tables the registry."""
        own = [table_of(name, name) for name in FAMILIES]
        (self.folder / "models.toml").write_text("\n".join([*own, *tables]))

    def saved(self, name: str) -> Path:
        """The folder of a family, with its files in it."""
        folder = self.folder / name
        if not folder.exists():
            build(name).save_pretrained(folder)
        return folder

    def load(self, name: str) -> Model:
        """A registered model, loaded afresh."""
        return load_model(load_registry(self.settings).find(name), settings=self.settings)

    def model(self, name: str) -> Model:
        """A family as the worker loads it."""
        if name not in self._models:
            self.saved(name)
            self._models[name] = self.load(name)
        return self._models[name]

    def pipeline(self, name: str) -> Any:
        """A family as diffusers loads it."""
        if name not in self._pipelines:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                self.saved(name), local_files_only=True
            )
            pipeline.set_progress_bar_config(disable=True)
            self._pipelines[name] = pipeline
        return self._pipelines[name]


def table_of(name: str, source: Path | str) -> str:
    """A registry entry for a pipeline folder."""
    return f'[models.{name}]\nsource = "{source}"\nkind = "generic"'


def spec_of(model: Model, **values: Any) -> ImageSpec:
    """A specification of a small, quick image, with some values changed."""
    defaults = {
        "model": model.name,
        "weights_digest": model.weights_digest,
        "prompt": "a red circle",
        "seed": 1,
        "width": 64,
        "height": 64,
        "steps": 2,
        "guidance_scale": 3.5,
        "sampler": "own",
    }
    return ImageSpec(**(defaults | values))
