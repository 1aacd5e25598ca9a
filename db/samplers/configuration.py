"""The configuration of a sampler: the model's own, changed by the sampler and by a row's options.

The worker makes its scheduler of it; `db.samplers.combinations` tells, without torch, whether it
works.
"""

from collections.abc import Collection, Mapping
from typing import Any

from imagemill.db.errors import UsageError
from imagemill.db.samplers.names import OWN, Sampler

STEP_OPTIONS = frozenset({"eta"})
"""Options that are no configuration: each step is given them."""

_DEFAULT_SIGMAS = {f"use_{kind}_sigmas": False for kind in ("karras", "exponential", "beta")}


def sampler_config(
    sampler: Sampler,
    options: Mapping[str, str | float | int | bool],
    *,
    model_config: Mapping[str, Any],
    accepted: Collection[str],
) -> dict[str, Any]:
    """The values that a sampler's diffusers class is made with, and others that it has no use for.

    `model_config` is the configuration of the model's own sampler, `accepted` what the class
    takes. Raises `UsageError` for an option that it does not take.
    """
    config = {key: value for key, value in model_config.items() if not key.startswith("_")}
    if sampler is not OWN:
        # A model saved with Karras sigmas does not make plain Euler a Karras one.
        config |= {key: value for key, value in _DEFAULT_SIGMAS.items() if key in accepted}
    config |= sampler.options
    # Flow-matching schedulers call this value `shift`; the older ones call it `flow_shift`.
    for one, other in (("shift", "flow_shift"), ("flow_shift", "shift")):
        if one in config:
            config.setdefault(other, config[one])
    for option, value in options.items():
        if option not in STEP_OPTIONS:
            config |= _override(sampler, option, value, accepted)
    return config


def _override(
    sampler: Sampler, option: str, value: str | float | int | bool, accepted: Collection[str]
) -> dict[str, Any]:
    if option == "sigmas":
        flags = {key: False for key in _DEFAULT_SIGMAS if key in accepted}
        if value == "default":
            return flags
        chosen = f"use_{value}_sigmas"
        if chosen not in accepted:
            raise UsageError(f"sampler {sampler.name} has no {value} sigmas")
        return flags | {chosen: True}
    if option not in accepted:
        raise UsageError(f"sampler {sampler.name} has no option {option}")
    return {option: value}
