"""Planned cells: what one cell of a manifest row asks for, with a value for every parameter."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from imagemill.db.models.facts import ModelFacts
from imagemill.db.models.registry import ModelEntry
from imagemill.db.samplers.names import strength_for
from imagemill.db.seeds import DERIVE, derive_seed
from imagemill.db.shared_specs import Request, SharedSpec
from imagemill.db.specs import INPUT_IMAGES, Adapter, AddedModel, ImageSpec
from imagemill.scheduler_jobs.manifest import ManifestRow, Parameters
from imagemill.scheduler_jobs.submit.prompts.prompt_window import PromptWindow

REFINER_START = 0.8
"""Where a model's refiner takes over, as its makers recommend."""

MAX_WINDOWS = 8
"""The most windows of a prompt, because attention costs more with each. The rest is cut, and the
image's outcome says so."""

_SPEC_FIELDS = frozenset(each.name for each in fields(ImageSpec)) - {"prompt", "seed"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedModel:
    """A model as planning sees it."""

    entry: ModelEntry
    facts: ModelFacts
    defaults: Parameters
    weights_digest: str
    window: PromptWindow | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedValues:
    """The values of cells that differ only in prompt and seed."""

    model: PlannedModel
    parameters: Parameters
    """Every parameter has its value; the seed is left out."""
    default_seed: int | None
    """The seed of rows that give none."""
    width: int
    height: int
    inputs: Mapping[str, str]
    """SHA-256 of the input files, by their columns."""
    controlnet: AddedModel | None
    ip_adapter: AddedModel | None
    adapters: tuple[Adapter, ...]
    count: int
    """The number of images."""
    unguided: tuple[tuple[str, str], ...] = ()
    """Columns without effect because there is no guidance, with their values."""
    known: dict[int, SharedSpec] = field(default_factory=dict)
    """The shared specifications that were made so far, by their number of windows."""

    def shared(self, prompt: str) -> SharedSpec:
        """The specification of images with such a prompt, without prompt and seed."""
        windows = self._windows(prompt)
        if windows not in self.known:
            self.known[windows] = SharedSpec(ImageSpec(prompt="", seed=0, **self._values(windows)))
        return self.known[windows]

    def _strength(self, steps: int) -> float | None:
        """How much of an init image is drawn anew; a start step says the same in steps."""
        if "init_image" not in self.inputs:
            return None
        if self.parameters.start_step is not None:
            return strength_for(steps=steps, start_step=self.parameters.start_step)
        return self.parameters.strength

    def _refiner_start(self) -> float | None:
        """Where the refiner takes over; None if the model has none or this image does without."""
        start = self.parameters.refiner_start
        if not self.model.facts.refined or "mask" in self.inputs or start == 1:
            return None
        return REFINER_START if start is None else start

    def _windows(self, prompt: str) -> int:
        """How many of the text encoder's windows the prompts of an image fill."""
        given, window = self.parameters, self.model.window
        if given.long_prompts != "chunk" or window is None:
            return 1
        both = (prompt, given.negative_prompt or "")
        return min(MAX_WINDOWS, max(window.windows(text) for text in both))

    def _values(self, windows: int) -> dict[str, Any]:
        """The specification's fields but prompt and seed."""
        given = self.parameters
        assert given.steps is not None
        options = dict(given.sampler_options or {})
        if given.eta is not None:
            options["eta"] = given.eta
        derived: dict[str, Any] = {
            "model": self.model.entry.name,
            "weights_digest": self.model.weights_digest,
            "width": self.width,
            "height": self.height,
            "sampler_options": tuple(sorted(options.items())),
            **dict.fromkeys(INPUT_IMAGES),
            **self.inputs,
            "controlnet": self.controlnet,
            "ip_adapter": self.ip_adapter,
            "strength": self._strength(given.steps),
            "adapters": self.adapters,
            "windows": windows,
            "refiner_start": self._refiner_start(),
        }
        # Every other field of the specification is the parameter of the same name.
        own = {name: value for name, value in given.settings().items() if name in _SPEC_FIELDS}
        if given.guidance_scale is not None and given.guidance_scale <= 1:
            # Without guidance an interval of it changes no pixel, so it makes no other request.
            derived |= {"guidance_start": 0.0, "guidance_end": 1.0}
        if given.format == "png":
            derived["quality"] = None  # that of other rows, which job or model give
        return own | derived


# Not frozen: every row needs one, and a frozen one takes six times as long to make.
@dataclass(kw_only=True, slots=True)
class PlannedCell:
    """One cell of a row in which every parameter has its value: ready to become images."""

    row: ManifestRow
    values: SharedValues
    seed: int | None
    """The seed that the row or the job gives; with several samples, that of the first."""
    cut: str | None
    """The part of the prompt that the model's text encoder will not see."""

    @property
    def model(self) -> PlannedModel:
        """The model that renders it."""
        return self.values.model

    @property
    def parameters(self) -> Parameters:
        """All parameters."""
        shared = self.values.parameters
        return shared if self.seed is None else shared.with_seed(self.seed)

    @property
    def count(self) -> int:
        """The number of images."""
        return self.values.count

    def requests(self, *, job_seed: int, key: str) -> list[Request]:
        """The cell's images, in the order of their samples; seeds are derived from `key`."""
        shared, prompt = self.values.shared(self.row.prompt), self.row.prompt
        return [Request(shared, prompt, seed) for seed in self._seeds(job_seed, key)]

    def _seeds(self, job_seed: int, key: str) -> Iterable[int]:
        given = self.values.parameters
        if given.seeds is not None:
            return given.seeds
        if self.seed is not None and self.seed != DERIVE:
            return range(self.seed, self.seed + given.count)
        return [
            derive_seed(job_seed=job_seed, row_key=key, sample_index=sample)
            for sample in range(given.count)
        ]
