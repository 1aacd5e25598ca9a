"""Whether a model can be sampled as a row asks for."""

from imagemill.db.models.facts import ModelFacts
from imagemill.db.models.registry import ModelEntry
from imagemill.db.samplers.combinations import combination_problem
from imagemill.db.samplers.configuration import sampler_config
from imagemill.db.samplers.idle_options import idle_problem
from imagemill.db.samplers.names import BY_NAME, OWN, Sampler, strength_for, usual_strength
from imagemill.db.samplers.options import TAKEN, misfit
from imagemill.db.samplers.pipelines import samplers_of, shift_problem
from imagemill.scheduler_jobs.manifest import Parameters
from imagemill.scheduler_jobs.submit.planning.refusals import Refused

_SCHEDULE_BY_STRENGTH = frozenset({"LatentConsistencyModelImg2ImgPipeline"})


def check_sampler(entry: ModelEntry, facts: ModelFacts, given: Parameters) -> None:
    """Raise `Refused` for a sampler that the model can't be drawn with, or for its options."""
    sampler = BY_NAME[given.sampler or ""]
    if sampler is not OWN:
        _check_kind(entry, facts, sampler.name)
        if entry.kind == "generic":
            _check_pipeline(facts, given, sampler.name)
    class_name = facts.sampler_class if sampler is OWN else sampler.diffusers_class
    if given.eta is not None and (problem := misfit(class_name, "eta", given.eta)) is not None:
        raise Refused("eta", f"{given.eta:g} with {sampler.name}", problem[1])
    for name, value in (given.sampler_options or {}).items():
        problem = misfit(class_name, name, value)
        if problem is not None:
            raise Refused("sampler_options", f"{sampler.name}: {problem[0]}", problem[1])
    _check_together(facts, given, sampler, class_name)


def _check_together(
    facts: ModelFacts, given: Parameters, sampler: Sampler, class_name: str
) -> None:
    """Options may be wrong beside each other, beside the model's configuration, or the steps."""
    if class_name not in TAKEN:
        return
    options = given.sampler_options or {}
    config = sampler_config(
        sampler,
        options,
        model_config=facts.sampler_config,
        accepted=TAKEN[class_name],
    )
    steps, strength = given.steps or 1, 1.0
    if facts.inputs.from_picture in _SCHEDULE_BY_STRENGTH and given.init_image is not None:
        strength = given.strength or usual_strength(masked=False)
        if given.start_step is not None:
            strength = strength_for(steps=steps, start_step=given.start_step)
    problem = combination_problem(class_name, config, steps=steps, strength=strength)
    problem = problem or idle_problem(class_name, options, config)
    problem = problem or shift_problem(_pipeline(facts, given), class_name, config)
    if problem is not None:
        found, allowed = problem
        column = "steps" if found.startswith("steps = ") else "sampler_options"
        raise Refused(column, f"{sampler.name}: {found}", allowed)


def _check_kind(entry: ModelEntry, facts: ModelFacts, name: str) -> None:
    """A sampler integrates what flow-matching models predict, or what all others do."""
    if entry.kind == "generic" and not facts.sampler_class:
        raise Refused("sampler", name, f"{OWN.name}: {entry.name} has no sampler to be replaced")
    sampler = BY_NAME[name]
    flow = facts.prediction_type == "flow_prediction"
    if sampler.flow == flow:
        return
    generic = entry.kind == "generic"
    # A pipeline may have a sampler of the other kind as its own, configured for its model.
    if generic and not sampler.flow and sampler.diffusers_class == facts.sampler_class:
        return
    suits = "flow-matching samplers" if flow else "samplers that are not flow-matching"
    own = f", or {OWN.name}," if generic else ""
    raise Refused("sampler", name, f"{suits}{own} for {entry.name}")


def _check_pipeline(facts: ModelFacts, given: Parameters, name: str) -> None:
    """A pipeline that makes its schedule itself works with few samplers."""
    pipeline = _pipeline(facts, given)
    taken = samplers_of(pipeline)
    if taken is not None and name not in taken:
        allowed = " or ".join([OWN.name, *sorted(taken)])
        raise Refused("sampler", name, f"{allowed}: diffusers' {pipeline} works with no other")


def _pipeline(facts: ModelFacts, given: Parameters) -> str:
    """The class of the pipeline that draws a row, by the pictures that the row has."""
    return facts.pipeline_for(
        init_image=given.init_image is not None,
        mask=given.mask is not None,
        control_image=given.control_image is not None,
    )
