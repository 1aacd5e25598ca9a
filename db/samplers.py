"""The samplers' names: canonical, displayed (as A1111 and Civitai write them), and aliases.

This module has the names only; `worker.engine.schedulers` makes the objects that compute. We say
"sampler" where diffusers says "scheduler". `diffusers_class` and `options` name the diffusers
class and its configuration.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampler:
    """One sampler: its names and the diffusers class and options that implement it.

    Samplers with `flow` are for flow-matching models only. All others are for models that predict
    epsilon, the sample or v.
    """

    name: str
    display: str
    diffusers_class: str
    options: Mapping[str, str | float | int | bool] = field(
        default_factory=lambda: MappingProxyType({})
    )
    aliases: tuple[str, ...] = ()
    flow: bool = False


def _sigmas(kind: str) -> Mapping[str, bool]:
    return MappingProxyType({f"use_{kind}_sigmas": True})


_DPMPP = "DPMSolverMultistepScheduler"
# diffusers' default does not fit its own final sigma: it is corrected with a warning every time.
_SINGLESTEP = MappingProxyType({"lower_order_final": True})

_FLOW: Mapping[str, str | bool] = MappingProxyType(
    {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
)

SAMPLERS: tuple[Sampler, ...] = (
    Sampler(name="ddim", display="DDIM", diffusers_class="DDIMScheduler"),
    Sampler(name="ddpm", display="DDPM", diffusers_class="DDPMScheduler"),
    Sampler(
        name="pndm",
        display="PLMS",
        diffusers_class="PNDMScheduler",
        options=MappingProxyType({"skip_prk_steps": True}),
        aliases=("plms",),
    ),
    Sampler(name="lms", display="LMS", diffusers_class="LMSDiscreteScheduler"),
    Sampler(
        name="lms_karras",
        display="LMS Karras",
        diffusers_class="LMSDiscreteScheduler",
        options=_sigmas("karras"),
    ),
    Sampler(name="euler", display="Euler", diffusers_class="EulerDiscreteScheduler"),
    Sampler(
        name="euler_karras",
        display="Euler Karras",
        diffusers_class="EulerDiscreteScheduler",
        options=_sigmas("karras"),
    ),
    Sampler(
        name="euler_exponential",
        display="Euler Exponential",
        diffusers_class="EulerDiscreteScheduler",
        options=_sigmas("exponential"),
    ),
    Sampler(
        name="euler_beta",
        display="Euler Beta",
        diffusers_class="EulerDiscreteScheduler",
        options=_sigmas("beta"),
    ),
    Sampler(
        name="euler_a",
        display="Euler a",
        diffusers_class="EulerAncestralDiscreteScheduler",
        aliases=("euler_ancestral",),
    ),
    Sampler(name="heun", display="Heun", diffusers_class="HeunDiscreteScheduler"),
    Sampler(
        name="heun_karras",
        display="Heun Karras",
        diffusers_class="HeunDiscreteScheduler",
        options=_sigmas("karras"),
    ),
    Sampler(name="kdpm2", display="DPM2", diffusers_class="KDPM2DiscreteScheduler"),
    Sampler(
        name="kdpm2_karras",
        display="DPM2 Karras",
        diffusers_class="KDPM2DiscreteScheduler",
        options=_sigmas("karras"),
    ),
    Sampler(
        name="kdpm2_a",
        display="DPM2 a",
        diffusers_class="KDPM2AncestralDiscreteScheduler",
        aliases=("kdpm2_ancestral",),
    ),
    Sampler(
        name="kdpm2_a_karras",
        display="DPM2 a Karras",
        diffusers_class="KDPM2AncestralDiscreteScheduler",
        options=_sigmas("karras"),
    ),
    Sampler(name="dpmpp_2m", display="DPM++ 2M", diffusers_class=_DPMPP),
    Sampler(
        name="dpmpp_2m_karras",
        display="DPM++ 2M Karras",
        diffusers_class=_DPMPP,
        options=_sigmas("karras"),
    ),
    Sampler(
        name="dpmpp_2m_exponential",
        display="DPM++ 2M Exponential",
        diffusers_class=_DPMPP,
        options=_sigmas("exponential"),
    ),
    Sampler(
        name="dpmpp_2m_beta",
        display="DPM++ 2M Beta",
        diffusers_class=_DPMPP,
        options=_sigmas("beta"),
    ),
    Sampler(
        name="dpmpp_2m_sde",
        display="DPM++ 2M SDE",
        diffusers_class=_DPMPP,
        options=MappingProxyType({"algorithm_type": "sde-dpmsolver++"}),
    ),
    Sampler(
        name="dpmpp_2m_sde_karras",
        display="DPM++ 2M SDE Karras",
        diffusers_class=_DPMPP,
        options=MappingProxyType({"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    ),
    Sampler(
        name="dpmpp_2m_sde_exponential",
        display="DPM++ 2M SDE Exponential",
        diffusers_class=_DPMPP,
        options=MappingProxyType(
            {"algorithm_type": "sde-dpmsolver++", "use_exponential_sigmas": True}
        ),
    ),
    Sampler(
        name="dpmpp_2m_sde_heun",
        display="DPM++ 2M SDE Heun",
        diffusers_class=_DPMPP,
        options=MappingProxyType({"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
    ),
    Sampler(
        name="dpmpp_3m_sde",
        display="DPM++ 3M SDE",
        diffusers_class=_DPMPP,
        options=MappingProxyType({"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    ),
    Sampler(
        name="dpmpp_3m_sde_karras",
        display="DPM++ 3M SDE Karras",
        diffusers_class=_DPMPP,
        options=MappingProxyType(
            {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "use_karras_sigmas": True}
        ),
    ),
    Sampler(
        name="dpmpp_3m_sde_exponential",
        display="DPM++ 3M SDE Exponential",
        diffusers_class=_DPMPP,
        options=MappingProxyType(
            {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "use_exponential_sigmas": True}
        ),
    ),
    Sampler(
        name="dpmpp_2s",
        display="DPM++ 2S",
        diffusers_class="DPMSolverSinglestepScheduler",
        options=_SINGLESTEP,
        aliases=("dpmpp_singlestep",),
    ),
    Sampler(
        name="dpmpp_2s_karras",
        display="DPM++ 2S Karras",
        diffusers_class="DPMSolverSinglestepScheduler",
        options=MappingProxyType({**_SINGLESTEP, "use_karras_sigmas": True}),
    ),
    Sampler(name="dpmpp_sde", display="DPM++ SDE", diffusers_class="DPMSolverSDEScheduler"),
    Sampler(
        name="dpmpp_sde_karras",
        display="DPM++ SDE Karras",
        diffusers_class="DPMSolverSDEScheduler",
        options=_sigmas("karras"),
    ),
    Sampler(name="unipc", display="UniPC", diffusers_class="UniPCMultistepScheduler"),
    Sampler(
        name="unipc_karras",
        display="UniPC Karras",
        diffusers_class="UniPCMultistepScheduler",
        options=_sigmas("karras"),
    ),
    Sampler(name="deis", display="DEIS", diffusers_class="DEISMultistepScheduler"),
    Sampler(
        name="deis_karras",
        display="DEIS Karras",
        diffusers_class="DEISMultistepScheduler",
        options=_sigmas("karras"),
    ),
    Sampler(name="sa_solver", display="SA Solver", diffusers_class="SASolverScheduler"),
    Sampler(name="lcm", display="LCM", diffusers_class="LCMScheduler"),
    Sampler(name="tcd", display="TCD", diffusers_class="TCDScheduler"),
    Sampler(
        name="flow_euler",
        display="Flow Euler",
        diffusers_class="FlowMatchEulerDiscreteScheduler",
        flow=True,
    ),
    Sampler(
        name="flow_heun",
        display="Flow Heun",
        diffusers_class="FlowMatchHeunDiscreteScheduler",
        flow=True,
    ),
    Sampler(
        name="flow_dpmpp_2m",
        display="Flow DPM++ 2M",
        diffusers_class=_DPMPP,
        options=_FLOW,
        flow=True,
    ),
    Sampler(
        name="flow_unipc",
        display="Flow UniPC",
        diffusers_class="UniPCMultistepScheduler",
        options=_FLOW,
        flow=True,
    ),
)

OWN = Sampler(name="own", display="Own", diffusers_class="")
"""The sampler that the model's own configuration names."""

BY_NAME: Mapping[str, Sampler] = MappingProxyType(
    {sampler.name: sampler for sampler in (*SAMPLERS, OWN)}
)


def find_sampler(text: str) -> Sampler | None:
    """The sampler with this canonical name, display name, alias or diffusers class; else None.

    Case, spaces, hyphens and underscores do not matter. If several samplers share a class, its
    name means the one without special options.
    """
    return _ALIASES.get(_folded(text))


def strength_for(*, steps: int, start_step: int) -> float:
    """The strength with which a variation begins at step `start_step`; 0 means all steps.

    diffusers takes int(steps * strength) steps. Rounding could make that one step too few, so the
    strength is raised until it is exact.
    """
    left = steps - start_step
    strength = left / steps
    while int(steps * strength) < left:
        strength = math.nextafter(strength, math.inf)
    return strength


def _folded(text: str) -> str:
    return "".join(c for c in text.casefold() if c not in " -_")


def _aliases() -> Mapping[str, Sampler]:
    found: dict[str, Sampler] = {}
    for sampler in (*SAMPLERS, OWN):
        for name in (sampler.name, sampler.display, *sampler.aliases, sampler.diffusers_class):
            if name:
                found.setdefault(_folded(name), sampler)
    return MappingProxyType(found)


_ALIASES = _aliases()
