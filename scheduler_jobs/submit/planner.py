"""Planning: what a manifest row, under a job's defaults, asks for.

There are four layers, and the first one that has a value wins: the row, the job's defaults, the
model's defaults, and the fallback for any model. Everything that can be known to be wrong is found
here, before anything is queued. The only I/O is to read each model's configuration files once.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from imagemill.db.errors import ModelError
from imagemill.db.models.components import weights_digest
from imagemill.db.models.facts import ModelFacts, model_facts
from imagemill.db.models.registry import ModelEntry, Registry
from imagemill.db.sampler_options import misfit
from imagemill.db.samplers import BY_NAME, OWN, strength_for
from imagemill.db.seeds import DERIVE, derive_seed, row_key
from imagemill.db.settings import Settings
from imagemill.db.specs import INPUT_IMAGES, Adapter, AddedModel, ImageSpec
from imagemill.scheduler_jobs.expansion import seed_base
from imagemill.scheduler_jobs.manifest import ManifestRow, Parameters, Problem
from imagemill.scheduler_jobs.manifest.problems import BadValue
from imagemill.scheduler_jobs.submit.input_files import InputFiles
from imagemill.scheduler_jobs.submit.pictures import (
    AddedModels,
    check_interval,
    check_pictures,
)
from imagemill.scheduler_jobs.submit.prompt_window import PromptWindow
from imagemill.scheduler_jobs.submit.refusals import Refused

FALLBACK = Parameters(steps=25, guidance_scale=7.5, sampler="dpmpp_2m", samples=1, format="png")
"""The values that neither row, job nor model gives."""

REFINER_START = 0.8
"""Where a model's refiner takes over, as its makers recommend."""

MAX_WINDOWS = 8
"""The most windows of a prompt. Attention grows with them; the rest is cut, as the image says."""


_KNOWN_SETTINGS = 1024
"""How many combinations of settings are remembered."""

_KNOWN_CHARACTERS = 500
"""The longest negative prompt of them."""

_SPEC_FIELDS = frozenset(field.name for field in fields(ImageSpec)) - {"seed"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedModel:
    """A model as planning sees it."""

    entry: ModelEntry
    facts: ModelFacts
    defaults: Parameters
    weights_digest: str
    window: PromptWindow | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedCell:
    """One cell of a row in which every parameter has its value: ready to become images."""

    row: ManifestRow
    model: PlannedModel
    parameters: Parameters
    width: int
    height: int
    inputs: Mapping[str, str]
    """SHA-256 of the input files, by their columns."""
    controlnet: AddedModel | None
    ip_adapter: AddedModel | None
    adapters: tuple[Adapter, ...]
    cut: str | None
    """The part of the prompt that the model's text encoder will not see."""

    def specs(self, *, job_seed: int, occurrence: int) -> Iterator[ImageSpec]:
        """The row's images, in the order of their samples."""
        key = row_key(seed_base(self.row), occurrence)
        shared = self._shared_by_samples()
        for sample in range(self.parameters.count):
            yield ImageSpec(**shared, seed=self._seed(sample, job_seed=job_seed, key=key))

    def _seed(self, sample: int, *, job_seed: int, key: str) -> int:
        given = self.parameters
        if given.seeds is not None:
            return given.seeds[sample]
        if given.seed is not None and given.seed != DERIVE:
            return given.seed + sample
        return derive_seed(job_seed=job_seed, row_key=key, sample_index=sample)

    def _strength(self, steps: int) -> float | None:
        """How much of an init image is drawn anew; a start step says the same in steps."""
        if "init_image" not in self.inputs:
            return None
        if self.parameters.start_step is not None:
            return strength_for(steps=steps, start_step=self.parameters.start_step)
        return self.parameters.strength

    def _refiner_start(self) -> float | None:
        """Where the refiner takes over; None where the model has none, or is to do without."""
        start = self.parameters.refiner_start
        if not self.model.facts.refined or "mask" in self.inputs or start == 1:
            return None
        return REFINER_START if start is None else start

    def _windows(self, given: Parameters) -> int:
        """How many of the text encoder's windows the prompts of an image fill."""
        window = self.model.window
        if given.long_prompts != "chunk" or window is None:
            return 1
        prompts = (self.row.prompt, given.negative_prompt or "")
        return min(MAX_WINDOWS, max(window.windows(prompt) for prompt in prompts))

    def _shared_by_samples(self) -> dict[str, Any]:
        """The specification's fields but the seed."""
        given = self.parameters
        assert given.steps is not None
        options = dict(given.sampler_options or {})
        if given.eta is not None:
            options["eta"] = given.eta
        settled: dict[str, Any] = {
            "model": self.model.entry.name,
            "weights_digest": self.model.weights_digest,
            "prompt": self.row.prompt,
            "width": self.width,
            "height": self.height,
            "sampler_options": tuple(sorted(options.items())),
            **dict.fromkeys(INPUT_IMAGES),
            **self.inputs,
            "controlnet": self.controlnet,
            "ip_adapter": self.ip_adapter,
            "strength": self._strength(given.steps),
            "adapters": self.adapters,
            "windows": self._windows(given),
            "refiner_start": self._refiner_start(),
        }
        # Every other field of the specification is the parameter of the same name.
        own = {name: value for name, value in given.settings().items() if name in _SPEC_FIELDS}
        if given.guidance_scale is not None and given.guidance_scale <= 1:
            # Without guidance an interval of it changes no pixel, so it makes no other request.
            settled |= {"guidance_start": 0.0, "guidance_end": 1.0}
        return own | settled


@dataclass(frozen=True, kw_only=True, slots=True)
class _Settled:
    """What cells share that differ only in prompt and seed; as in `PlannedCell`."""

    model: PlannedModel
    parameters: Parameters
    width: int
    height: int
    controlnet: AddedModel | None
    ip_adapter: AddedModel | None
    inputs: Mapping[str, str]
    adapters: tuple[Adapter, ...]


class Planner:
    """Turns the cells of manifest rows into planned cells or problems."""

    def __init__(
        self,
        *,
        registry: Registry,
        settings: Settings,
        defaults: Parameters,
        inputs: InputFiles,
        source_name: str,
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._defaults = defaults
        self._inputs = inputs
        self._added = AddedModels(registry)
        self._file = source_name
        self._models: dict[str, PlannedModel | ModelError] = {}
        self._adapter_digests: dict[str, str] = {}
        self._known: dict[tuple[Any, ...], _Settled] = {}

    def model(self, name: str) -> PlannedModel:
        """A model's facts, read once. Raises `ModelError` if the model is not there."""
        if name not in self._models:
            try:
                self._models[name] = self._load(name)
            except ModelError as error:
                self._models[name] = error
        found = self._models[name]
        if isinstance(found, ModelError):
            raise found
        return found

    def for_file(self, name: str) -> "Planner":
        """The same planner for rows of another file: models and inputs are read once for all."""
        other = copy.copy(self)
        other._file = name
        return other

    def plan(self, row: ManifestRow) -> PlannedCell | Problem:
        """Give every parameter of one cell of a row its value."""
        try:
            return self._plan(row)
        except Refused as refused:
            return Problem(
                file=self._file,
                row=row.number,
                line=row.line,
                column=refused.column,
                found=refused.found,
                allowed=refused.allowed,
            )

    def _plan(self, row: ManifestRow) -> PlannedCell:
        given = row.parameters.over(self._defaults)
        settled, parameters = self._settled(given)
        model = settled.model
        truncates = model.window is not None and parameters.long_prompts != "chunk"
        return PlannedCell(
            row=row,
            model=model,
            parameters=parameters,
            width=settled.width,
            height=settled.height,
            controlnet=settled.controlnet,
            ip_adapter=settled.ip_adapter,
            inputs=settled.inputs,
            adapters=settled.adapters,
            cut=model.window.cut(row.prompt) if truncates and model.window else None,
        )

    def _settled(self, given: Parameters) -> tuple["_Settled", Parameters]:
        """Everything of a cell but its prompt, and the cell's parameters.

        Most rows differ from others only in prompt and seed, so the rest is settled once. A seed
        takes part in no check here. What is refused is never remembered.
        """
        settings = {name: value for name, value in vars(given).items() if name != "seed"}
        key = (given.seed is None, *settings.values())
        try:
            found = self._known.get(key)
        except TypeError:  # sampler options can't be a key
            return (settled := self._settle(given)), settled.parameters
        if found is None:
            found = self._settle(given)
            if len(self._known) < _KNOWN_SETTINGS and _is_short(given):
                self._known[key] = found
        if given.seed is None:
            return found, found.parameters
        return found, found.parameters.with_seed(given.seed)

    def _settle(self, given: Parameters) -> "_Settled":
        name = given.model or self._settings.default_model
        try:
            model = self.model(name)
        except ModelError as error:
            allowed = ", ".join(self._registry.models)
            raise Refused("model", f"{name!r} ({error})", f"one of {allowed}") from None
        parameters = self._layered(given, model)
        width = parameters.width or model.facts.default_size[0]
        height = parameters.height or model.facts.default_size[1]
        _check_size(model, width, height)
        _check_sampler(model, parameters)
        _check_options(model, parameters)
        check_pictures(model.entry, model.facts, parameters)
        check_interval(model.entry, model.facts, parameters)
        _check_refiner(model, parameters)
        return _Settled(
            model=model,
            parameters=parameters,
            width=width,
            height=height,
            controlnet=self._added.control(model.entry, model.facts, parameters),
            ip_adapter=self._added.reference(model.entry, model.facts, parameters),
            inputs=self._input_digests(parameters),
            adapters=self._adapters(parameters),
        )

    def _layered(self, given: Parameters, model: PlannedModel) -> Parameters:
        """The values of row and job, completed by the model's defaults and the fallback."""
        fallback = FALLBACK
        if model.entry.kind == "generic":
            fallback = FALLBACK.model_copy(update={"sampler": OWN.name})
        defaults = model.defaults
        if given.init_image is None and defaults.strength is not None:
            # A strength that the model gives is meant for the rows that have a picture.
            defaults = defaults.model_copy(update={"strength": None})
        return given.over(defaults).over(fallback)

    def _input_digests(self, given: Parameters) -> Mapping[str, str]:
        """The content hashes of a row's input files."""
        digests = {}
        for column in INPUT_IMAGES:
            name = getattr(given, column)
            if name is None:
                continue
            try:
                digests[column] = self._inputs.digest(name)
            except BadValue as bad:
                raise Refused(column, bad.found, bad.allowed) from None
        return digests

    def _adapters(self, given: Parameters) -> tuple[Adapter, ...]:
        """The adapters that parameters name, with the digests of their files."""
        try:
            return tuple(
                Adapter(
                    name=choice.name,
                    digest=self._adapter_digest(choice.name),
                    weight=choice.weight,
                )
                for choice in given.adapters or ()
            )
        except ModelError as error:
            raise Refused("adapters", str(error), "registered adapters") from None

    def _adapter_digest(self, name: str) -> str:
        """The digest of an adapter's file, which is read once for all rows."""
        if name not in self._adapter_digests:
            self._adapter_digests[name] = self._registry.find_adapter(name).digest
        return self._adapter_digests[name]

    def _load(self, name: str) -> PlannedModel:
        entry = self._registry.find(name)
        facts = model_facts(entry)
        window = None
        if facts.tokenizer is not None and facts.window is not None:
            window = PromptWindow.from_tokenizer_folder(facts.tokenizer, facts.window)
        digest = weights_digest(entry)
        return PlannedModel(
            entry=entry,
            facts=facts,
            defaults=Parameters.model_validate(dict(entry.defaults)),
            weights_digest=digest,
            window=window,
        )


def _is_short(given: Parameters) -> bool:
    """Whether these parameters take little memory: a row's own texts and seeds may be long."""
    return given.seeds is None and len(given.negative_prompt or "") <= _KNOWN_CHARACTERS


def _check_size(model: PlannedModel, width: int, height: int) -> None:
    multiple = model.facts.size_multiple
    for column, side in (("width", width), ("height", height)):
        if side % multiple:
            raise Refused(column, str(side), f"a multiple of {multiple} for {model.entry.name}")


def _check_sampler(model: PlannedModel, given: Parameters) -> None:
    sampler = BY_NAME[given.sampler or ""]
    if sampler is OWN:
        return
    flow = model.facts.prediction_type == "flow_prediction"
    if sampler.flow != flow and model.entry.kind != "generic":
        suits = "flow-matching samplers" if flow else "samplers that are not flow-matching"
        raise Refused("sampler", sampler.name, f"{suits} for {model.entry.name}")


def _check_options(model: PlannedModel, given: Parameters) -> None:
    sampler = BY_NAME[given.sampler or ""]
    class_name = model.facts.sampler_class if sampler is OWN else sampler.diffusers_class
    for name, value in (given.sampler_options or {}).items():
        problem = misfit(class_name, name, value)
        if problem is not None:
            raise Refused("sampler_options", f"{sampler.name}: {problem[0]}", problem[1])


def _check_refiner(model: PlannedModel, given: Parameters) -> None:
    if given.refiner_start in (None, 1):
        return
    found = f"{given.refiner_start:g}"
    if not model.facts.refined:
        raise Refused("refiner_start", found, f"1, or none: {model.entry.name} has no refiner")
    if given.mask is not None:
        raise Refused("refiner_start", found, "1, or none: nothing is refined within a mask")
