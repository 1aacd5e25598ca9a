"""Planning: what a manifest row, under a job's defaults, asks for.

There are four layers, and the first one that has a value wins: the row, the job's defaults, the
model's defaults, and the fallback for any model. Everything that can be known to be wrong is found
here, before anything is queued. The only I/O is to read each model's configuration files once.
"""

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from imagemill.db.errors import ModelError
from imagemill.db.models.components import weights_digest
from imagemill.db.models.embeddings import check_embeddings
from imagemill.db.models.entry_checks import check_entry
from imagemill.db.models.facts import model_facts
from imagemill.db.models.registry import ModelEntry, Registry
from imagemill.db.prompt_weights import MAX_WEIGHT, unusable_weight
from imagemill.db.samplers.names import OWN
from imagemill.db.settings import Settings
from imagemill.db.specs import INPUT_IMAGES, Adapter
from imagemill.scheduler_jobs.manifest import ManifestRow, Parameters, Problem
from imagemill.scheduler_jobs.manifest.parameters import SEED_PLACE
from imagemill.scheduler_jobs.manifest.problems import BadValue
from imagemill.scheduler_jobs.manifest.rows import bad_fields
from imagemill.scheduler_jobs.submit.input_files import InputFiles
from imagemill.scheduler_jobs.submit.planning.call_arguments import check_call, check_guidance
from imagemill.scheduler_jobs.submit.planning.idle_values import (
    JobQuality,
    check_quality,
    unguided_values,
)
from imagemill.scheduler_jobs.submit.planning.pictures import (
    AddedModels,
    check_interval,
    check_pictures,
)
from imagemill.scheduler_jobs.submit.planning.planned_cells import (
    PlannedCell,
    PlannedModel,
    SharedValues,
)
from imagemill.scheduler_jobs.submit.planning.refusals import Refused
from imagemill.scheduler_jobs.submit.planning.samplers import check_sampler
from imagemill.scheduler_jobs.submit.prompts.prompt_window import PromptWindow

FALLBACK = Parameters(steps=25, guidance_scale=7.5, sampler="dpmpp_2m", samples=1, format="png")
"""The values that neither row, job nor model gives."""

_KNOWN_SETTINGS = 1024
"""How many combinations of settings are remembered."""

_KNOWN_CHARACTERS = 500
"""The longest negative prompt of them."""


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
        self.job_quality = JobQuality(defaults)
        self._models: dict[str, PlannedModel | ModelError] = {}
        self._adapter_digests: dict[str, str] = {}
        self._known: dict[tuple[Any, ...], SharedValues] = {}
        self._before: tuple[Parameters, SharedValues] | None = None

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
        # Rows that set nothing, or the same as others, mostly have one and the same object.
        if self._before is None or self._before[0] is not row.parameters:
            self._before = row.parameters, self._values(row.parameters)
        values = self._before[1]
        model = values.model
        truncates = model.window is not None and values.parameters.long_prompts != "chunk"
        seed = row.parameters.seed
        if values.parameters.prompt_weighting:
            _check_weights("prompt", row.prompt)
        return PlannedCell(
            row=row,
            values=values,
            seed=values.default_seed if seed is None else seed,
            cut=model.window.cut(row.prompt) if truncates and model.window else None,
        )

    def _values(self, given: Parameters) -> SharedValues:
        """Everything of a cell but its prompt and the seed that its row gives.

        Most rows differ from others only in prompt and seed, so the rest is worked out once. A seed
        takes part in no check here. What is refused is never remembered.
        """
        values = given.all_values()
        key = (*values[:SEED_PLACE], given.seed is None, *values[SEED_PLACE + 1 :])
        try:
            found = self._known.get(key)
        except TypeError:  # sampler options can't be a key
            return self._completed(given)
        if found is None:
            found = self._completed(given)
            if len(self._known) < _KNOWN_SETTINGS and _is_short(given):
                self._known[key] = found
        return found

    def _completed(self, row: Parameters) -> SharedValues:
        given = row.over(self._defaults)
        name = given.model or self._settings.default_model
        allowed = f"one of {', '.join(self._registry.models)}"
        if name not in self._registry.models:
            raise Refused("model", repr(name), f"{allowed}; `imagemill models add` registers more")
        try:
            model = self.model(name)
        except ModelError as error:
            raise Refused("model", f"{name!r} ({error})", allowed) from None
        parameters = self._layered(given, model)
        width = parameters.width or model.facts.default_size[0]
        height = parameters.height or model.facts.default_size[1]
        _check_size(model, width, height)
        check_pictures(model.entry, model.facts, parameters)
        check_sampler(model.entry, model.facts, parameters)
        check_interval(model.entry, model.facts, parameters)
        check_call(model.entry, model.facts, parameters)
        check_guidance(model.entry, model.facts, given)
        _check_refiner(model, parameters)
        _check_prompts(model, parameters)
        check_quality(row, parameters)
        self.job_quality.note(row, parameters)
        return SharedValues(
            model=model,
            parameters=parameters.with_seed(None),
            count=parameters.count,
            default_seed=parameters.seed,
            width=width,
            height=height,
            controlnet=self._added.control(model.entry, model.facts, parameters),
            ip_adapter=self._added.reference(model.entry, model.facts, parameters),
            inputs=self._input_digests(parameters),
            adapters=self._adapters(parameters),
            unguided=unguided_values(given, parameters),
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
            raise Refused("adapters", str(error), "`imagemill models` lists them") from None

    def _adapter_digest(self, name: str) -> str:
        """The digest of an adapter's file, which is read once for all rows."""
        if name not in self._adapter_digests:
            entry = self._registry.find_adapter(name)
            digest = entry.digest
            if (problem := entry.problem) is not None:
                raise Refused("adapters", problem, "a LoRA file")
            self._adapter_digests[name] = digest
        return self._adapter_digests[name]

    def _load(self, name: str) -> PlannedModel:
        entry = self._registry.find(name)
        facts = model_facts(entry)
        check_entry(entry, self._registry)
        check_embeddings(entry)
        window = None
        if facts.tokenizer is not None and facts.window is not None:
            window = PromptWindow.from_tokenizer_folder(facts.tokenizer, facts.window)
        digest = weights_digest(entry)
        return PlannedModel(
            entry=entry,
            facts=facts,
            defaults=defaults_of(entry),
            weights_digest=digest,
            window=window,
        )


def defaults_of(entry: ModelEntry) -> Parameters:
    """The values of a model's `defaults`. Raises `ModelError` for the first that is none."""
    try:
        return Parameters.model_validate(dict(entry.defaults))
    except ValidationError as error:
        field, found, allowed = next(bad_fields(error))
        raise ModelError(f"model {entry.name}: defaults.{field}: {found}; {allowed}") from None


def _is_short(given: Parameters) -> bool:
    """Whether these parameters take little memory: a row's own texts and seeds may be long."""
    return given.seeds is None and len(given.negative_prompt or "") <= _KNOWN_CHARACTERS


def _check_size(model: PlannedModel, width: int, height: int) -> None:
    multiple = model.facts.size_multiple
    for column, side in (("width", width), ("height", height)):
        if side % multiple:
            raise Refused(column, str(side), f"a multiple of {multiple} for {model.entry.name}")


def _check_weights(column: str, text: str) -> None:
    found = unusable_weight(text)
    if found is not None:
        allowed = f"numbers from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}, as in (word:1.3)"
        raise Refused(column, f"the weight {found}", allowed)


def _check_prompts(model: PlannedModel, given: Parameters) -> None:
    """Refuse weights and several windows where another encoder than CLIP reads prompts too.

    Weights of the negative prompt that can't be used are refused, too.
    """
    if given.prompt_weighting:
        _check_weights("negative_prompt", given.negative_prompt or "")
    if model.entry.kind != "generic" or model.window is not None:
        return
    why = f"none: the prompts of {model.facts.pipeline_class} are not read by CLIP alone"
    if given.prompt_weighting:
        raise Refused("prompt_weighting", "true", f"false, or {why}")
    if given.long_prompts == "chunk":
        raise Refused("long_prompts", "chunk", f"truncate, or {why}")


def _check_refiner(model: PlannedModel, given: Parameters) -> None:
    if given.refiner_start in (None, 1):
        return
    found = f"{given.refiner_start:g}"
    if not model.facts.refined:
        raise Refused("refiner_start", found, f"1, or none: {model.entry.name} has no refiner")
    if given.mask is not None:
        raise Refused("refiner_start", found, "1, or none: nothing is refined within a mask")
