"""Whether a model's pipeline has an argument for what a row asks for."""

from imagemill.db.models.call_arguments import ARGUMENTS, arguments_of
from imagemill.db.models.facts import ModelFacts
from imagemill.db.models.families import find_family
from imagemill.db.models.registry import ModelEntry
from imagemill.scheduler_jobs.manifest import Parameters
from imagemill.scheduler_jobs.submit.planning.refusals import Refused

_UNGUIDED_IF_DISTILLED = frozenset({"Flux2KleinPipeline"})
"""Pipelines that pass over `guidance_scale` where their model is distilled to few steps.

With other distilled models, guidance is an input of the denoiser.
"""


def check_guidance(entry: ModelEntry, facts: ModelFacts, given: Parameters) -> None:
    """Raise `Refused` for guidance that row or job (`given`) ask of a model that passes it over."""
    if not facts.distilled or facts.pipeline_class not in _UNGUIDED_IF_DISTILLED:
        return
    if given.guidance_scale is not None and _guided(given):
        allowed = f"1, or none: {entry.name} is distilled, and passes guidance over"
        raise Refused("guidance_scale", f"{given.guidance_scale:g}", allowed)


def check_call(entry: ModelEntry, facts: ModelFacts, given: Parameters) -> None:
    """Raise `Refused` for a column that would have no effect on this model's picture."""
    layers = facts.text_layers
    if layers is not None and (given.clip_skip or 1) > layers:
        allowed = f"1 to {layers}, the layers of the text encoder of {entry.name}"
        raise Refused("clip_skip", str(given.clip_skip), allowed)
    if entry.kind != "generic":
        if given.negative_prompt and _guided(given) and not facts.guided:
            raise Refused("negative_prompt", "a text", f"none: {entry.name} has no guidance")
        return
    family = find_family(facts.pipeline_class)
    if given.adapters and family is not None and not family.lora:
        allowed = f"none: diffusers loads no LoRA for {facts.pipeline_class} of {entry.name}"
        raise Refused("adapters", given.adapters[0].name, allowed)
    pipeline = facts.pipeline_for(
        init_image=given.init_image is not None,
        mask=given.mask is not None,
        control_image=given.control_image is not None,
    )
    taken = arguments_of(pipeline)
    if taken is None:
        return  # another class, of which the worker finds out
    if facts.distilled:
        taken -= {"negative_prompt"}
    asked = {
        "clip_skip": given.clip_skip not in (None, 1),
        "eta": (given.eta or (given.sampler_options or {}).get("eta", 0)) != 0,
        "guidance_rescale": (given.guidance_rescale or 0) != 0,
        "negative_prompt": bool(given.negative_prompt) and _guided(given),
    }
    for name in ARGUMENTS:
        if asked[name] and name not in taken:
            found = "a text" if name == "negative_prompt" else f"{getattr(given, name) or name}"
            column = "sampler_options" if found == "eta" else name
            raise Refused(column, found, f"none: {pipeline} of {entry.name} takes none")


def _guided(given: Parameters) -> bool:
    """Whether there is guidance that a negative prompt could have a part in."""
    return given.guidance_scale is None or given.guidance_scale > 1
