"""Values of a sampler's configuration, and numbers of steps, that do not work together.

diffusers finds some of them when it makes a scheduler, some at a step, some it replaces by others
in silence, and some give no picture but NaN. This module needs no torch, so all are found when a
manifest is submitted. `tests/engine/test_sampler_combinations.py` tries what it lets through.
"""

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

Problem = tuple[str, str]
"""What was found, and what is allowed."""

_DPM_MULTI, _DPM_SINGLE = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
_UNIPC = "UniPCMultistepScheduler"
_MULTISTEP = frozenset({_DPM_MULTI, _UNIPC, "DEISMultistepScheduler", "SASolverScheduler"})
_DISTILLED = frozenset({"LCMScheduler", "TCDScheduler"})
_BY_ALPHA = frozenset({"DDIMScheduler", "DDPMScheduler", "PNDMScheduler"})
"""They look the alphas of a timestep up in a table."""

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "algorithm_type": "dpmsolver++",
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "final_sigmas_type": "zero",
        "num_train_timesteps": 1000,
        "original_inference_steps": 50,
        "prediction_type": "epsilon",
        "predict_x0": True,
        "solver_order": 2,
        "steps_offset": 0,
    }
)
"""What diffusers takes where a configuration has no value, in all classes but `CLASS_DEFAULTS`."""

CLASS_DEFAULTS: Mapping[tuple[str, str], Any] = MappingProxyType(
    {
        ("SASolverScheduler", "algorithm_type"): "data_prediction",
        ("DEISMultistepScheduler", "algorithm_type"): "deis",
        ("LCMScheduler", "beta_schedule"): "scaled_linear",
        ("TCDScheduler", "beta_schedule"): "scaled_linear",
        ("LCMScheduler", "beta_start"): 0.00085,
        ("TCDScheduler", "beta_start"): 0.00085,
        ("DPMSolverSDEScheduler", "beta_start"): 0.00085,
        ("HeunDiscreteScheduler", "beta_start"): 0.00085,
        ("KDPM2DiscreteScheduler", "beta_start"): 0.00085,
        ("KDPM2AncestralDiscreteScheduler", "beta_start"): 0.00085,
        ("LCMScheduler", "beta_end"): 0.012,
        ("TCDScheduler", "beta_end"): 0.012,
        ("DPMSolverSDEScheduler", "beta_end"): 0.012,
        ("HeunDiscreteScheduler", "beta_end"): 0.012,
        ("KDPM2DiscreteScheduler", "beta_end"): 0.012,
        ("KDPM2AncestralDiscreteScheduler", "beta_end"): 0.012,
    }
)

LEADING = _BY_ALPHA | _DISTILLED
"""The classes whose default `timestep_spacing` is `leading`; that of the others is `linspace`."""

MOST_TIMESTEPS = 100_000
"""Of a model's training. Those in use have 1,000."""

_NUMBERS = (
    "beta_start",
    "beta_end",
    "num_train_timesteps",
    "original_inference_steps",
    "solver_order",
    "steps_offset",
)

_SCHEDULES = ("use_karras_sigmas", "use_lu_lambdas", "use_exponential_sigmas", "use_beta_sigmas")

_PRK_STEPS = 4
"""The steps that PNDM takes by Runge-Kutta's method."""

_LEAST_SIGNAL = -40.0
"""The logarithm of the least share of a picture that the noisiest step may leave. Below it, 32-bit
floats come to zero."""


def combination_problem(
    class_name: str, config: Mapping[str, Any], *, steps: int, strength: float = 1
) -> Problem | None:
    """The first thing in a configuration for this class that does not work; None if all does.

    `config` is what `sampler_config` gives. `strength` is that with which a pipeline makes its
    schedule, if it does so.
    """
    values = _Values(class_name, {**config, "strength": strength})
    for name in _NUMBERS:
        found = values[name]
        if not isinstance(found, int | float) or not 0 <= found <= MOST_TIMESTEPS:
            return values.said(name), f"{name}: a number from 0 to {MOST_TIMESTEPS}"
    for rule in _RULES:
        for problem in rule(class_name, values, steps):
            return problem
    return None


class _Values:
    """A configuration with the defaults of its class."""

    def __init__(self, class_name: str, config: Mapping[str, Any]) -> None:
        self._class_name = class_name
        self._config = config

    def __getitem__(self, name: str) -> Any:
        found = self._config.get(name)
        if found is None:
            found = CLASS_DEFAULTS.get((self._class_name, name), DEFAULTS.get(name))
        return found

    def said(self, name: str) -> str:
        """A value as a message names it."""
        return f"{name} = {self[name]!r}"


def _final_sigmas(class_name: str, values: _Values, steps: int) -> Iterator[Problem]:
    """What divides by the last sigma can't end at zero."""
    if class_name not in (_DPM_MULTI, _DPM_SINGLE, _UNIPC) or values["final_sigmas_type"] != "zero":
        return
    end = "with final_sigmas_type = 'zero'"
    beside = "or final_sigmas_type: sigma_min"
    algorithm = values["algorithm_type"]
    if class_name != _UNIPC and algorithm in ("dpmsolver", "sde-dpmsolver"):
        allowed = f"algorithm_type: dpmsolver++, sde-dpmsolver++; {beside}"
        yield f"{values.said('algorithm_type')} {end}", allowed
    if class_name != _DPM_MULTI and values["lower_order_final"] is False:
        yield f"lower_order_final = False {end}", f"lower_order_final: true; {beside}"
    if class_name == _UNIPC:
        if values["predict_x0"] is False:
            yield f"predict_x0 = False {end}", f"predict_x0: true; {beside}"
        if values["solver_type"] == "bh1":
            yield f"solver_type = 'bh1' {end}", f"solver_type: bh2; {beside}"


def _schedules(class_name: str, values: _Values, steps: int) -> Iterator[Problem]:
    """Of several schedules of noise, diffusers takes one, or none."""
    chosen = [name for name in _SCHEDULES if values[name]]
    if len(chosen) > 1:
        yield f"{' and '.join(chosen)} together", "one of them"
    karras_flows = class_name == _UNIPC and chosen == ["use_karras_sigmas"]
    if values["use_flow_sigmas"] and chosen and not karras_flows:
        yield f"{chosen[0]} with a flow-matching sampler", "sigmas: default for this sampler"


def _flow(class_name: str, values: _Values, steps: int) -> Iterator[Problem]:
    """Flow-matching models are integrated along flow sigmas, all others along their betas."""
    if class_name.startswith("FlowMatch"):
        return
    flow, prediction = bool(values["use_flow_sigmas"]), values["prediction_type"]
    if flow != (prediction == "flow_prediction"):
        kind = "a flow-matching sampler" if flow else "a sampler that is not flow-matching"
        allowed = "flow_prediction" if flow else "epsilon, sample, v_prediction"
        yield f"{values.said('prediction_type')} with {kind}", f"prediction_type: {allowed}"
    if flow and values["predict_x0"] is False:
        yield "predict_x0 = False with a flow-matching sampler", "predict_x0: true"
    if flow and values["algorithm_type"] in ("dpmsolver", "sde-dpmsolver"):
        found = f"{values.said('algorithm_type')} with a flow-matching sampler"
        yield found, "algorithm_type: dpmsolver++, sde-dpmsolver++"


def _thresholding(class_name: str, values: _Values, steps: int) -> Iterator[Problem]:
    """SA-Solver cuts predictions of the picture alone."""
    noise = values["algorithm_type"] == "noise_prediction"
    if class_name == "SASolverScheduler" and noise and values["thresholding"]:
        yield "thresholding = True with algorithm_type = 'noise_prediction'", "thresholding: false"


def _betas(class_name: str, values: _Values, steps: int) -> Iterator[Problem]:
    """Betas grow, and leave some of the picture."""
    by_betas = not values["use_flow_sigmas"] or values["use_karras_sigmas"]
    if class_name.startswith("FlowMatch") or not by_betas:
        return
    schedule, start, end = values["beta_schedule"], values["beta_start"], values["beta_end"]
    if schedule not in ("linear", "scaled_linear") or values["trained_betas"] is not None:
        return
    number = values["num_train_timesteps"]
    if not 0 < start <= end < 1:
        yield f"{values.said('beta_start')} and {values.said('beta_end')}", "0 < start <= end < 1"
        return
    if _signal(schedule, float(start), float(end), int(number)) < _LEAST_SIGNAL:
        yield (
            f"{values.said('beta_end')} over {number} timesteps, which leaves nothing of a picture",
            "beta_start and beta_end: smaller ones, such as 0.00085 and 0.012",
        )


@lru_cache(maxsize=1024)
def _signal(schedule: str, start: float, end: float, number: int) -> float:
    """The logarithm of the share of a picture that the noisiest timestep leaves."""
    power = 2 if schedule == "scaled_linear" else 1
    low, high = start ** (1 / power), end ** (1 / power)
    growth = (high - low) / max(1, number - 1)
    return sum(math.log1p(-((low + growth * place) ** power)) for place in range(number))


def _zero_signal(class_name: str, values: _Values, steps: int) -> Iterator[Problem]:
    """Where nothing of the picture is left, it can't be computed from the noise in it."""
    if not values["rescale_betas_zero_snr"] or values["prediction_type"] != "epsilon":
        return
    noisiest = _first_timestep(class_name, values, steps) == values["num_train_timesteps"] - 1
    if class_name in _DISTILLED or (class_name in _BY_ALPHA and noisiest):
        yield (
            "rescale_betas_zero_snr = True with prediction_type = 'epsilon'",
            "rescale_betas_zero_snr: false, or a model of v_prediction",
        )


def _steps(class_name: str, values: _Values, steps: int) -> Iterator[Problem]:
    """Steps are chosen among the timesteps of the training."""
    train = values["num_train_timesteps"]
    spacing = _spacing(class_name, values)
    if class_name in _DISTILLED:
        original = values["original_inference_steps"]
        if original > train:
            yield values.said("original_inference_steps"), f"original_inference_steps: to {train}"
        elif steps > (most := int(original * values["strength"])):
            short = f" and strength {values['strength']:g}" if values["strength"] < 1 else ""
            found = f"steps = {steps} with {values.said('original_inference_steps')}{short}"
            yield found, f"steps: at most {most} for this sampler"
        return
    dense = spacing == "trailing" and not values["use_flow_sigmas"]
    most = train - 1 if class_name in _MULTISTEP and not dense else train
    # Those that look alphas up fail behind the last timestep. Others take the last one's sigma,
    # which does no harm once, as for 1,000 steps with the usual offset of 1.
    last = train - 1 if class_name in _BY_ALPHA else train
    if steps > most:
        yield f"steps = {steps}", f"steps: at most {most} for this sampler"
    elif _first_timestep(class_name, values, steps) > last:
        found = f"steps = {steps} with {values.said('steps_offset')}"
        yield found, f"timesteps to {train - 1}: fewer steps, or a smaller steps_offset"
    order = values["solver_order"]
    if class_name == _DPM_SINGLE and values["lower_order_final"] is False and steps % order:
        found = f"lower_order_final = False with steps = {steps}"
        yield found, f"lower_order_final: true, or steps: a multiple of {order}"


def _prk(class_name: str, values: _Values, steps: int) -> Iterator[Problem]:
    """PNDM begins with Runge-Kutta steps, for which it needs four."""
    if class_name == "PNDMScheduler" and not values["skip_prk_steps"] and steps < _PRK_STEPS:
        found = f"skip_prk_steps = False with steps = {steps}"
        yield found, f"skip_prk_steps: true, or steps: at least {_PRK_STEPS}"


_RULES = (_final_sigmas, _schedules, _flow, _thresholding, _betas, _zero_signal, _steps, _prk)


def _first_timestep(class_name: str, values: _Values, steps: int) -> int:
    """The noisiest timestep, where the timesteps are chosen by `timestep_spacing`."""
    train: int = values["num_train_timesteps"]
    if _spacing(class_name, values) != "leading":
        return train - 1
    more = 1 if class_name in _MULTISTEP else 0
    return int((steps - 1 + more) * (train // (steps + more)) + values["steps_offset"])


def _spacing(class_name: str, values: _Values) -> Any:
    return values["timestep_spacing"] or ("leading" if class_name in LEADING else "linspace")
