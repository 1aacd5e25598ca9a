"""Options of samplers that would change nothing beside the rest of a configuration.

"Nothing in a manifest is silent": such an option is refused when a manifest is submitted. What a
class never reads is not in `db.samplers.options.TAKEN`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from imagemill.db.samplers.combinations import CLASS_DEFAULTS, DEFAULTS, LEADING, Problem
from imagemill.db.samplers.options import TAKEN

Config = Mapping[str, Any]

_SECOND_ORDER = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Condition:
    """When options count: what `counts` says of a class and a configuration.

    `otherwise` is what a row may say instead, behind "none".
    """

    names: frozenset[str]
    counts: Callable[[str, Config], bool]
    otherwise: str


_HARMLESS: Mapping[str, Any] = MappingProxyType(
    {
        "sample_max_value": 1.0,
        "dynamic_thresholding_ratio": 0.995,
        "clip_sample_range": 1.0,
        "flow_shift": 1.0,
        "shift": 1.0,
        "use_dynamic_shifting": False,
        "time_shift_type": "exponential",
        "base_shift": 0.5,
        "max_shift": 1.15,
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
        "euler_at_final": False,
        "lower_order_final": True,
    }
)
"""Values that do nothing anyway: those of diffusers."""


def idle_problem(class_name: str, options: Config, config: Config) -> Problem | None:
    """The first of a row's options that would change nothing; None if each has an effect.

    `config` is what `sampler_config` makes with these options.
    """
    for name, value in options.items():
        harmless = _HARMLESS.get(name)
        if value == harmless and name in _HARMLESS:
            continue
        for condition in _CONDITIONS:
            if name in condition.names and not condition.counts(class_name, config):
                none = f"{harmless}, or none" if name in _HARMLESS else "none"
                return (
                    f"{name} = {value!r}, which would change nothing",
                    f"{name}: {none}{condition.otherwise}",
                )
    return None


def _value(class_name: str, config: Config, name: str) -> Any:
    found = config.get(name)
    if found is None:
        found = CLASS_DEFAULTS.get((class_name, name), DEFAULTS.get(name))
    return found


def _cuts_by_share(class_name: str, config: Config) -> bool:
    return bool(config.get("thresholding"))


def _clips(class_name: str, config: Config) -> bool:
    return config.get("clip_sample") is not False  # most classes clip where nothing is said


def _flows(class_name: str, config: Config) -> bool:
    return class_name.startswith("FlowMatch") or bool(config.get("use_flow_sigmas"))


def _shifts_by_size(class_name: str, config: Config) -> bool:
    return bool(config.get("use_dynamic_shifting")) and _flows(class_name, config)


def _shifts_alike(class_name: str, config: Config) -> bool:
    by_size = "use_dynamic_shifting" in TAKEN.get(class_name, ())
    return not (by_size and _shifts_by_size(class_name, config))


def _spaces_timesteps(class_name: str, config: Config) -> bool:
    return not _flows(class_name, config)


def _leads(class_name: str, config: Config) -> bool:
    spacing = config.get("timestep_spacing")
    return (class_name in LEADING) if spacing is None else bool(spacing == "leading")


def _has_betas(class_name: str, config: Config) -> bool:
    by_betas = not _flows(class_name, config) or bool(config.get("use_karras_sigmas"))
    return by_betas and config.get("trained_betas") is None


def _betas_have_ends(class_name: str, config: Config) -> bool:
    return bool(_value(class_name, config, "beta_schedule") != "squaredcos_cap_v2")


def _lowers_last_order(class_name: str, config: Config) -> bool:
    """The multistep DPM-Solver's last step to zero is of first order whatever is said."""
    if class_name != "DPMSolverMultistepScheduler" or _ends_above_zero(class_name, config):
        return True
    return bool(_value(class_name, config, "solver_order") > _SECOND_ORDER)


def _ends_above_zero(class_name: str, config: Config) -> bool:
    return bool(_value(class_name, config, "final_sigmas_type") != "zero")


_FOR_FLOW = ": for flow-matching samplers"
_NOT_FOR_FLOW = ": for samplers that are not flow-matching"
_CONDITIONS = (
    _Condition(
        names=frozenset({"sample_max_value", "dynamic_thresholding_ratio"}),
        counts=_cuts_by_share,
        otherwise=", or thresholding: true",
    ),
    _Condition(
        names=frozenset({"clip_sample_range"}), counts=_clips, otherwise=", or clip_sample: true"
    ),
    _Condition(
        names=frozenset({"flow_shift", "use_dynamic_shifting"}), counts=_flows, otherwise=_FOR_FLOW
    ),
    _Condition(
        names=frozenset({"time_shift_type", "base_shift", "max_shift"}),
        counts=_shifts_by_size,
        otherwise=", or use_dynamic_shifting: true",
    ),
    _Condition(
        names=frozenset({"shift", "flow_shift"}),
        counts=_shifts_alike,
        otherwise=", or use_dynamic_shifting: false",
    ),
    _Condition(
        names=frozenset({"timestep_spacing", "steps_offset"}),
        counts=_spaces_timesteps,
        otherwise=_NOT_FOR_FLOW,
    ),
    _Condition(
        names=frozenset({"steps_offset"}), counts=_leads, otherwise=", or timestep_spacing: leading"
    ),
    _Condition(
        names=frozenset({"beta_schedule", "beta_start", "beta_end", "rescale_betas_zero_snr"}),
        counts=_has_betas,
        otherwise=": the sampler takes no betas",
    ),
    _Condition(
        names=frozenset({"beta_start", "beta_end"}),
        counts=_betas_have_ends,
        otherwise=", or beta_schedule: linear, scaled_linear",
    ),
    _Condition(
        names=frozenset({"euler_at_final"}),
        counts=_ends_above_zero,
        otherwise=", or final_sigmas_type: sigma_min",
    ),
    _Condition(
        names=frozenset({"lower_order_final"}),
        counts=_lowers_last_order,
        otherwise=", or final_sigmas_type: sigma_min",
    ),
)
