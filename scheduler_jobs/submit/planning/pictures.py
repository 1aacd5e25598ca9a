"""Whether a model takes the pictures that a row gives it: to start from, to follow, to be like.

A model of kind `generic` takes what diffusers has a pipeline for (`db.models.pipeline_inputs`). All
others are drawn by the guided engine, which takes init images and masks.
"""

import math

from imagemill.db.errors import ModelError
from imagemill.db.models.added_models import AddedEntry
from imagemill.db.models.facts import ModelFacts
from imagemill.db.models.pipeline_inputs import PipelineInputs
from imagemill.db.models.registry import ModelEntry, Registry
from imagemill.db.samplers.names import BY_NAME, strength_for, usual_strength
from imagemill.db.specs import AddedModel
from imagemill.scheduler_jobs.manifest import Parameters
from imagemill.scheduler_jobs.submit.planning.refusals import Refused

_TWICE = ("Heun", "KDPM2", "DPMSolverSDE", "FlowMatchHeun")

_GENERIC = 'none, unless its kind is "generic" in the registry'


def check_pictures(entry: ModelEntry, facts: ModelFacts, given: Parameters) -> None:
    """Raise `Refused` for an init image, a mask, or what belongs to them, that can't be used."""
    if given.mask is not None and given.init_image is None:
        raise Refused("mask", "no init_image", "an init image for every mask")
    if facts.inpainting and given.mask is None:
        raise Refused("mask", "none", f"an init image and a mask: {entry.name} is for inpainting")
    # All strength is what a picture from nothing takes: ComfyUI writes `denoise` 1 for every one.
    for column, idle in (("strength", 1), ("start_step", None)):
        if getattr(given, column) not in (None, idle) and given.init_image is None:
            raise Refused(column, "no init_image", "an init image beside it")
    if given.start_step is not None and given.start_step >= (given.steps or 0):
        raise Refused("start_step", str(given.start_step), f"less than the {given.steps} steps")
    if given.init_image is not None and given.start_step is None:
        _check_strength(given)
    if entry.kind == "generic":
        _check_generic(facts, given)


def _check_generic(facts: ModelFacts, given: Parameters) -> None:
    """Refuse an init image or a mask that diffusers has no pipeline for."""
    name, inputs = facts.pipeline_class or "this pipeline", facts.inputs
    if given.init_image is not None and given.mask is None and not inputs.from_picture:
        instead = ", but a reference_image" if inputs.reference != "no" else ""
        raise Refused("init_image", given.init_image, f"none: {name} takes no init image{instead}")
    if given.mask is not None and not inputs.in_mask:
        raise Refused("mask", given.mask, f"none: diffusers has no inpainting for {name}")


def _check_strength(given: Parameters) -> None:
    """Refuse a strength that leaves no step, also where it is the usual one and nothing is said."""
    steps, strength, origin = given.steps or 1, given.strength, ""
    if strength is None:
        strength, origin = usual_strength(masked=given.mask is not None), ", the usual one,"
    if int(steps * strength) < 1:
        least = math.ceil(strength_for(steps=steps, start_step=steps - 1) * 1e4) / 1e4
        found = f"{strength:g}{origin} with steps = {steps}"
        raise Refused("strength", found, f"at least {least:g}, so that one step is left")


class AddedModels:
    """The ControlNets and IP-Adapters that rows ask for; each is looked at once."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._controlnets: dict[str, tuple[AddedModel, str | None]] = {}
        self._ip_adapters: dict[str, AddedModel] = {}

    def control(self, entry: ModelEntry, facts: ModelFacts, given: Parameters) -> AddedModel | None:
        """The ControlNet of an image; None without a control image, or if the pipeline has its own.

        Raises `Refused` if it is not known, not for this model, or stands alone.
        """
        inputs, picture, pipeline = facts.inputs, given.control_image, facts.pipeline_class
        for column in ("controlnet", "control_scale"):
            value = getattr(given, column)
            if value is not None and picture is None:
                raise Refused(column, "no control_image", "a control image beside it")
            if value is not None and inputs.own_control:
                raise Refused(column, str(value), f"none: {pipeline} reads control images itself")
        if inputs.own_control and picture is None:
            raise Refused("control_image", "none", f"one: {pipeline} always reads a control image")
        if picture is None or inputs.own_control:
            return None
        if not inputs.controlnet:
            raise Refused("control_image", picture, _no_way(entry, facts, "ControlNet"))
        _check_controlled(inputs, pipeline, given)
        if given.controlnet is None:
            there = ", ".join(self._registry.controlnets) or "none is registered"
            raise Refused("controlnet", "none", f"the ControlNet for control_image: {there}")
        return self._controlnet(given.controlnet, inputs, entry)

    def reference(
        self, entry: ModelEntry, facts: ModelFacts, given: Parameters
    ) -> AddedModel | None:
        """The IP-Adapter of an image; None without a reference image, or if its pipeline edits it.

        Raises `Refused` if the model takes no reference image, or needs one that is not there.
        """
        inputs, picture, pipeline = facts.inputs, given.reference_image, facts.pipeline_class
        scale = given.reference_scale
        if scale is not None and picture is None:
            raise Refused("reference_scale", "no reference_image", "a reference image beside it")
        if scale not in (None, 1) and inputs.reference != "no":
            allowed = f"1, or none: {pipeline} has no scale for its picture"
            raise Refused("reference_scale", f"{scale:g}", allowed)
        if inputs.reference == "must" and picture is None:
            raise Refused("reference_image", "none", f"the picture that {pipeline} is to change")
        if inputs.reference != "no" and picture is not None and entry.ip_adapter is not None:
            allowed = f"none while {entry.name} has an ip_adapter: {pipeline} changes the picture"
            raise Refused("reference_image", picture, allowed)
        if picture is None or inputs.reference != "no":
            return None
        if not inputs.ip_adapter:
            raise Refused("reference_image", picture, _no_way(entry, facts, "IP-Adapter"))
        if entry.ip_adapter is None:
            allowed = f'none, unless {entry.name} has ip_adapter = "NAME" in the registry'
            raise Refused("reference_image", picture, allowed)
        _check_adapted(inputs, given)
        return self._ip_adapter(entry.ip_adapter)

    def _controlnet(self, name: str, inputs: PipelineInputs, entry: ModelEntry) -> AddedModel:
        if name not in self._controlnets:
            try:
                found = self._registry.find_controlnet(name)
                # Where only workers have its files, the registry has its digest, nobody its class.
                class_name = found.class_name if found.problem is None else None
                added = AddedModel(name=name, digest=_digest(found))
                self._controlnets[name] = added, class_name
            except ModelError as error:
                raise Refused("controlnet", error.message, "a registered ControlNet") from None
        added, class_name = self._controlnets[name]
        if class_name not in (None, inputs.controlnet):
            allowed = f"a {inputs.controlnet} for {entry.name}"
            raise Refused("controlnet", f"{name}, a {class_name or 'model of no class'}", allowed)
        return added

    def _ip_adapter(self, name: str) -> AddedModel:
        if name not in self._ip_adapters:
            try:
                digest = _digest(self._registry.find_ip_adapter(name))
            except ModelError as error:
                raise Refused("reference_image", error.message, "an IP-Adapter") from None
            self._ip_adapters[name] = AddedModel(name=name, digest=digest)
        return self._ip_adapters[name]


def _digest(entry: AddedEntry) -> str:
    """Its digest. Raises `ModelError` also if its files here are not what they are to be."""
    digest = entry.digest
    if (flaw := entry.flaw) is not None:
        raise ModelError(flaw)
    return digest


def _check_controlled(inputs: PipelineInputs, pipeline: str, given: Parameters) -> None:
    """Refuse a ControlNet together with an init image or a mask that diffusers does not combine."""
    if given.mask is not None:
        column, pipeline_class = "mask", inputs.controlled_in_mask
    elif given.init_image is not None:
        column, pipeline_class = "init_image", inputs.controlled_from_picture
    else:
        return
    if not pipeline_class:
        allowed = f"none beside control_image: diffusers has no such pipeline for {pipeline}"
        raise Refused(column, str(getattr(given, column)), allowed)


def _check_adapted(inputs: PipelineInputs, given: Parameters) -> None:
    """Refuse a reference image beside pictures whose pipeline reads none."""
    kind = inputs.class_for(
        picture=given.init_image is not None,
        mask=given.mask is not None,
        controlled=given.control_image is not None,
    )
    if kind in inputs.without_ip_adapter:
        allowed = f"none beside control_image and init_image: {kind} has no IP-Adapter"
        raise Refused("reference_image", str(given.reference_image), allowed)


def check_interval(entry: ModelEntry, facts: ModelFacts, given: Parameters) -> None:
    """Raise `Refused` for a guidance interval on a model whose guidance can't be switched off.

    Also for one without a step, which a row and its model's defaults may make together.
    """
    start, end = given.guidance_start or 0.0, given.guidance_end
    if end is not None and start >= end:
        found = f"guidance from {start:g} to {end:g}"
        raise Refused("guidance_start", found, "a start before the end")
    for column, idle in (("guidance_start", 0), ("guidance_end", 1)):
        value = getattr(given, column)
        if value in (None, idle):
            continue
        if facts.distilled or not facts.guided:
            allowed = f"{idle}, or none: {entry.name} has no guidance that could be switched off"
            raise Refused(column, f"{value:g}", allowed)
    steps = given.steps or 1
    calls = 2 * steps if _calls_twice(facts, given) else steps
    if int(start * calls) >= int((1 if end is None else end) * calls):
        found = f"guidance from {start:g} to {1 if end is None else end:g} of {steps} steps"
        raise Refused("guidance_end", found, "an interval with a step in it")


def _calls_twice(facts: ModelFacts, given: Parameters) -> bool:
    """Whether a sampler calls the denoiser twice for each step but the last."""
    sampler = BY_NAME[given.sampler or ""]
    return (sampler.diffusers_class or facts.sampler_class).startswith(_TWICE)


def _no_way(entry: ModelEntry, facts: ModelFacts, what: str) -> str:
    if entry.kind == "text_to_image":
        return f"{_GENERIC}: the guided engine takes no {what}"
    return f"none: diffusers has no {what} for {facts.pipeline_class or entry.name}"
