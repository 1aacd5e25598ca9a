"""The options of samplers: their names, their allowed values, and which sampler takes which.

This module needs no torch, so a wrong option is found when a manifest is submitted.
"""

import difflib
import math
from collections.abc import Mapping
from types import MappingProxyType

OPTIONS: Mapping[str, tuple[str, ...] | type] = MappingProxyType(
    {
        "eta": float,
        "sigmas": ("default", "karras", "exponential", "beta"),
        "timestep_spacing": ("leading", "trailing", "linspace"),
        "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
        "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
        "beta_start": float,
        "beta_end": float,
        "steps_offset": int,
        "solver_order": int,
        "solver_type": ("midpoint", "heun", "bh1", "bh2", "logrho"),
        "algorithm_type": (
            "dpmsolver",
            "dpmsolver++",
            "sde-dpmsolver",
            "sde-dpmsolver++",
            "deis",
            "data_prediction",
            "noise_prediction",
        ),
        "final_sigmas_type": ("zero", "sigma_min"),
        "lower_order_final": bool,
        "euler_at_final": bool,
        "use_lu_lambdas": bool,
        "rescale_betas_zero_snr": bool,
        "set_alpha_to_one": bool,
        "clip_sample": bool,
        "clip_sample_range": float,
        "thresholding": bool,
        "dynamic_thresholding_ratio": float,
        "sample_max_value": float,
        "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
        "original_inference_steps": int,
        "shift": float,
        "flow_shift": float,
        "stochastic_sampling": bool,
        "use_karras_sigmas": bool,
        "use_exponential_sigmas": bool,
        "use_beta_sigmas": bool,
        "skip_prk_steps": bool,
        "interpolation_type": ("linear", "log_linear"),
        "predict_x0": bool,
        "predictor_order": int,
        "corrector_order": int,
        "timestep_scaling": float,
        "num_train_timesteps": int,
        "use_dynamic_shifting": bool,
        "time_shift_type": ("exponential", "linear"),
        "base_shift": float,
        "max_shift": float,
        "invert_sigmas": bool,
    }
)
"""The allowed `sampler_options`: for each name the allowed words, or the type of the value."""

_SCHEDULE = frozenset(
    {"beta_schedule", "beta_start", "beta_end", "prediction_type", "num_train_timesteps"}
)
_SPACING = frozenset({"timestep_spacing", "steps_offset"})
_SIGMAS = frozenset({"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"})
_THRESHOLD = frozenset({"thresholding", "dynamic_thresholding_ratio", "sample_max_value"})
_CLIP = frozenset({"clip_sample", "clip_sample_range"})
_SOLVER = frozenset({"solver_order", "solver_type", "lower_order_final"})
_FLOW = frozenset({"flow_shift", "use_dynamic_shifting", "time_shift_type"})
_DISTILLED = frozenset({"original_inference_steps", "rescale_betas_zero_snr"})

TAKEN: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "DDIMScheduler": _SCHEDULE
        | _SPACING
        | _THRESHOLD
        | _CLIP
        | {"rescale_betas_zero_snr", "set_alpha_to_one"},
        "DDPMScheduler": _SCHEDULE
        | _SPACING
        | _THRESHOLD
        | _CLIP
        | {"rescale_betas_zero_snr", "variance_type"},
        "PNDMScheduler": _SCHEDULE | _SPACING | {"set_alpha_to_one", "skip_prk_steps"},
        "LMSDiscreteScheduler": _SCHEDULE | _SPACING | _SIGMAS,
        "EulerDiscreteScheduler": _SCHEDULE
        | _SPACING
        | _SIGMAS
        | {"final_sigmas_type", "interpolation_type", "rescale_betas_zero_snr"},
        "EulerAncestralDiscreteScheduler": _SCHEDULE | _SPACING | {"rescale_betas_zero_snr"},
        "HeunDiscreteScheduler": _SCHEDULE | _SPACING | _SIGMAS | _CLIP,
        "KDPM2DiscreteScheduler": _SCHEDULE | _SPACING | _SIGMAS,
        "KDPM2AncestralDiscreteScheduler": _SCHEDULE | _SPACING | _SIGMAS,
        "DPMSolverMultistepScheduler": _SCHEDULE
        | _SPACING
        | _SIGMAS
        | _THRESHOLD
        | _SOLVER
        | _FLOW
        | {
            "algorithm_type",
            "euler_at_final",
            "final_sigmas_type",
            "rescale_betas_zero_snr",
            "use_lu_lambdas",
        },
        "DPMSolverSinglestepScheduler": _SCHEDULE
        | _SIGMAS
        | _THRESHOLD
        | _SOLVER
        | _FLOW
        | {"algorithm_type", "final_sigmas_type"},
        "DPMSolverSDEScheduler": _SCHEDULE | _SPACING | _SIGMAS,
        "UniPCMultistepScheduler": _SCHEDULE
        | _SPACING
        | _SIGMAS
        | _THRESHOLD
        | _SOLVER
        | _FLOW
        | {"final_sigmas_type", "predict_x0", "rescale_betas_zero_snr"},
        "DEISMultistepScheduler": _SCHEDULE
        | _SPACING
        | _SIGMAS
        | _THRESHOLD
        | _SOLVER
        | _FLOW
        | {"algorithm_type"},
        "SASolverScheduler": _SCHEDULE
        | _SPACING
        | _SIGMAS
        | _THRESHOLD
        | {
            "algorithm_type",
            "corrector_order",
            "flow_shift",
            "lower_order_final",
            "predictor_order",
        },
        "LCMScheduler": _SCHEDULE | _THRESHOLD | _CLIP | _DISTILLED | {"timestep_scaling"},
        "TCDScheduler": _SCHEDULE | _DISTILLED,
        "FlowMatchEulerDiscreteScheduler": _SIGMAS
        | {
            "base_shift",
            "invert_sigmas",
            "max_shift",
            "num_train_timesteps",
            "shift",
            "stochastic_sampling",
            "time_shift_type",
            "use_dynamic_shifting",
        },
        "FlowMatchHeunDiscreteScheduler": frozenset({"num_train_timesteps", "shift"}),
    }
)
"""The options that each diffusers class takes and reads; `misfit` handles `sigmas` and `eta`.
Some take an option and never read it, as TCD `thresholding`, or read it only with values that a
row can't have, as the DPM-Solvers `variance_type`."""

WITH_ETA = frozenset({"DDIMScheduler", "TCDScheduler"})
"""The classes whose steps take `eta`. The others would pass over it in silence."""

_DPM_SOLVERS = frozenset({"midpoint", "heun"})

_EPSILON_OR_V = frozenset({"epsilon", "v_prediction"})
_NO_FLOW = _EPSILON_OR_V | {"sample"}

WORDS: Mapping[tuple[str, str], frozenset[str]] = MappingProxyType(
    {
        ("DDIMScheduler", "prediction_type"): _NO_FLOW,
        ("DDPMScheduler", "prediction_type"): _NO_FLOW,
        ("DDPMScheduler", "variance_type"): frozenset(
            {"fixed_small", "fixed_small_log", "fixed_large"}
        ),
        ("PNDMScheduler", "prediction_type"): _EPSILON_OR_V,
        ("LMSDiscreteScheduler", "prediction_type"): _NO_FLOW,
        ("EulerDiscreteScheduler", "prediction_type"): _NO_FLOW,
        ("EulerAncestralDiscreteScheduler", "prediction_type"): _EPSILON_OR_V,
        ("HeunDiscreteScheduler", "prediction_type"): _NO_FLOW,
        ("KDPM2DiscreteScheduler", "prediction_type"): _EPSILON_OR_V,
        ("KDPM2AncestralDiscreteScheduler", "prediction_type"): _EPSILON_OR_V,
        ("KDPM2AncestralDiscreteScheduler", "beta_schedule"): frozenset(
            {"linear", "scaled_linear"}
        ),
        ("DPMSolverSDEScheduler", "prediction_type"): _EPSILON_OR_V,
        ("LCMScheduler", "prediction_type"): _NO_FLOW,
        ("TCDScheduler", "prediction_type"): _NO_FLOW,
        ("DPMSolverMultistepScheduler", "algorithm_type"): frozenset(
            {"dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"}
        ),
        ("DPMSolverMultistepScheduler", "solver_type"): _DPM_SOLVERS,
        ("DPMSolverSinglestepScheduler", "algorithm_type"): frozenset(
            {"dpmsolver", "dpmsolver++", "sde-dpmsolver++"}
        ),
        ("DPMSolverSinglestepScheduler", "solver_type"): _DPM_SOLVERS,
        ("UniPCMultistepScheduler", "solver_type"): frozenset({"bh1", "bh2"}),
        ("DEISMultistepScheduler", "algorithm_type"): frozenset({"deis"}),
        ("DEISMultistepScheduler", "solver_type"): frozenset({"logrho"}),
        ("DPMSolverMultistepScheduler", "time_shift_type"): frozenset({"exponential"}),
        ("DPMSolverSinglestepScheduler", "time_shift_type"): frozenset({"exponential"}),
        ("DEISMultistepScheduler", "time_shift_type"): frozenset({"exponential"}),
        ("SASolverScheduler", "algorithm_type"): frozenset({"data_prediction", "noise_prediction"}),
    }
)
"""The words of an option that a class works with, where these are not all of them. Of the others
it refuses some; the rest it replaces by a word of its own, and the picture would not be what the
row says."""


BOUNDS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "solver_order": (1, 3),
        "predictor_order": (1, 4),
        "corrector_order": (1, 4),
        "original_inference_steps": (1, math.inf),
        "num_train_timesteps": (1, 100_000),
        "dynamic_thresholding_ratio": (0, 1),
        "shift": (0.01, math.inf),
        "flow_shift": (0.01, math.inf),
    }
)
"""The least and the largest value of numbers that may not be any number from 0."""


def option_problem(name: str, value: object) -> tuple[str, str] | None:
    """The problem of one sampler option and what is allowed; None if there is no problem."""
    allowed = OPTIONS.get(name)
    if allowed is None:
        close = difflib.get_close_matches(name[:100], OPTIONS, n=1, cutoff=0.6)
        words = f"did you mean {close[0]}?" if close else f"one of {', '.join(OPTIONS)}"
        return f"an unknown option {name[:100]!r}", words
    found = f"{name} = {value!r:.100}"
    if isinstance(allowed, tuple):
        return None if value in allowed else (found, f"{name}: {', '.join(allowed)}")
    if allowed is bool:
        return None if isinstance(value, bool) else (found, f"{name}: true or false")
    kinds, words = (int, "a whole number") if allowed is int else (float | int, "a number")
    low, high = BOUNDS.get(name, (0, math.inf))
    fine = isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high
    if fine and value != math.inf:
        return None
    return found, f"{name}: {words} from {low:g}" + (f" to {high:g}" if high < math.inf else "")


def misfit(diffusers_class: str, name: str, value: object) -> tuple[str, str] | None:
    """Why a valid option does not fit a sampler of this class, and what would; None if it fits.

    It is also None for a class that is not in `TAKEN`: the worker will find out.
    """
    taken = TAKEN.get(diffusers_class)
    if taken is None:
        return None
    if name == "eta":
        fits = diffusers_class in WITH_ETA or value == 0
        return None if fits else (f"eta = {value!r}", "0, or none: DDIM and TCD add such noise")
    if name == "sigmas":
        return _other_sigmas(taken, value)
    words = WORDS.get((diffusers_class, name))
    if words is not None and value not in words:
        return f"{name} = {value!r}", f"{name}: {', '.join(sorted(words))} for this sampler"
    if name in taken:
        return None
    return f"{name}, which this sampler does not take", f"one of {', '.join(sorted(taken))}"


def _other_sigmas(taken: frozenset[str], value: object) -> tuple[str, str] | None:
    kinds = [kind for kind in ("karras", "exponential", "beta") if _flag(kind) in taken]
    if value == "default" or value in kinds:
        return None
    return f"sigmas = {value!r}", f"sigmas: {', '.join(['default', *kinds])} for this sampler"


def _flag(kind: str) -> str:
    return f"use_{kind}_sigmas"
