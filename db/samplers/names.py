"""The samplers' names: canonical, displayed (as A1111 and Civitai write them), and aliases.

This module has the names only; `worker.engine.schedulers` makes the objects that compute. We say
"sampler" where diffusers says "scheduler". `diffusers_class` and `options` name the diffusers
class and its configuration.
"""

import math
from collections.abc import Iterator, Mapping
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
        aliases=("kdpm2_ancestral", "dpm_2_ancestral"),
    ),
    Sampler(
        name="kdpm2_a_karras",
        display="DPM2 a Karras",
        diffusers_class="KDPM2AncestralDiscreteScheduler",
        options=_sigmas("karras"),
    ),
    Sampler(
        name="dpmpp_2m",
        display="DPM++ 2M",
        diffusers_class=_DPMPP,
        aliases=("dpmsolver++", "k_dpmpp_2"),
    ),
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
        aliases=("dpmpp_2m_sde_gpu",),
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
        aliases=("dpmpp_2m_sde_heun_gpu",),
    ),
    Sampler(
        name="dpmpp_3m_sde",
        display="DPM++ 3M SDE",
        diffusers_class=_DPMPP,
        options=MappingProxyType({"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
        aliases=("dpmpp_3m_sde_gpu",),
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
        aliases=("dpmpp_singlestep", "dpmsingle"),
    ),
    Sampler(
        name="dpmpp_2s_karras",
        display="DPM++ 2S Karras",
        diffusers_class="DPMSolverSinglestepScheduler",
        options=MappingProxyType({**_SINGLESTEP, "use_karras_sigmas": True}),
    ),
    Sampler(
        name="dpmpp_sde",
        display="DPM++ SDE",
        diffusers_class="DPMSolverSDEScheduler",
        aliases=("dpmpp_sde_gpu",),
    ),
    Sampler(
        name="dpmpp_sde_karras",
        display="DPM++ SDE Karras",
        diffusers_class="DPMSolverSDEScheduler",
        options=_sigmas("karras"),
    ),
    Sampler(
        name="unipc",
        display="UniPC",
        diffusers_class="UniPCMultistepScheduler",
        aliases=("uni_pc_bh2",),
    ),
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
    Sampler(
        name="sa_solver",
        display="SA Solver",
        diffusers_class="SASolverScheduler",
        # A model that was saved with a DPM-Solver has a word here that SA-Solver does not know.
        options=MappingProxyType({"algorithm_type": "data_prediction"}),
    ),
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


def _absent() -> Iterator[tuple[str, str | None]]:
    near: Mapping[str | None, str] = {
        "dpmpp_2s": "dpmpp_2s_ancestral, dpmpp_2s_a, k_dpmpp_2s_a, k_dpmpp_2_a",
        "dpmpp_2s_karras": "dpmpp_2s_a_karras, k_dpmpp_2s_a_ka",
        "euler": "euler_cfg_pp, gradient_estimation",
        "euler_a": "euler_ancestral_cfg_pp",
        "heun": "heunpp2, exp_heun_2_x0, exp_heun_2_x0_sde",
        "dpmpp_2m": "dpmpp_3m, dpmpp_2m_cfg_pp, dpmsolver",
        "dpmpp_2m_karras": "dpmpp_3m_k",
        "kdpm2": "dpm_fast, k_dpm_fast, dpm_adaptive, k_dpm_adaptive, k_dpm_ad, restart",
        None: "dpmpp_2s_ancestral_cfg_pp, ddim_cfg++, sa_solver_pece, ipndm, ipndm_v, er_sde, "
        "seeds_2, seeds_3, res_multistep, res_multistep_cfg_pp, res_multistep_ancestral, "
        "res_multistep_ancestral_cfg_pp, gradient_estimation_cfg_pp, dpmpp_2m_sde_heun_karras, "
        "dpmpp_2m_sde_heun_exponential",
    }
    for sampler, names in near.items():
        yield from ((name, sampler) for name in names.split(", "))


ABSENT: Mapping[str, str | None] = MappingProxyType(dict(_absent()))
"""Samplers of A1111, ComfyUI, InvokeAI, Fooocus, SwarmUI and kohya that are not here, and what is
near. They are never taken for the near one: the pictures would be others."""

AUTOMATIC: Mapping[str, str] = MappingProxyType(
    {
        "dpmpp_2m": "karras",
        "dpmpp_sde": "karras",
        "kdpm2": "karras",
        "kdpm2_a": "karras",
        "dpmpp_2m_sde": "exponential",
        "dpmpp_2m_sde_heun": "exponential",
        "dpmpp_3m_sde": "exponential",
    }
)
"""The schedule that A1111 takes for these samplers where a user leaves it at `Automatic`."""

OWN = Sampler(name="own", display="Own", diffusers_class="")
"""The sampler that the model's own configuration names."""

BY_NAME: Mapping[str, Sampler] = MappingProxyType(
    {sampler.name: sampler for sampler in (*SAMPLERS, OWN)}
)


def find_sampler(text: str) -> Sampler | None:
    """The sampler with this canonical name, display name, alias or diffusers class; else None.

    Case, spaces, hyphens and underscores do not matter, and `++` is `pp`. If several samplers
    share a class, its name means the one without special options. A `k_` in front (A1111, Stable
    Horde, kohya) means nothing; `_k` (InvokeAI) or `_ka` (A1111) at the end means Karras.
    """
    return _ALIASES.get(_folded(text))


def absent_sampler(text: str) -> tuple[str, str | None] | None:
    """Another tool's sampler that is not here, as (its name, what is near); None if it is none."""
    return _ABSENT.get(_folded(text))


def usual_strength(*, masked: bool) -> float:
    """How much of an init image is drawn anew if nothing is said, as in diffusers.

    With a mask everything under the mask is drawn anew.
    """
    return 1.0 if masked else 0.8


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
    return "".join(c for c in text.casefold().replace("++", "pp") if c not in " -_")


def _aliases() -> Mapping[str, Sampler]:
    found: dict[str, Sampler] = {}
    for sampler in (*SAMPLERS, OWN):
        for name in (sampler.name, sampler.display, *sampler.aliases, sampler.diffusers_class):
            if name:
                found.setdefault(_folded(name), sampler)
    for sampler in SAMPLERS:
        ends = {"": sampler}
        if f"{sampler.name}_karras" in BY_NAME:
            karras = BY_NAME[f"{sampler.name}_karras"]
            ends |= {"k": karras, "ka": karras}
        for name in map(_folded, (sampler.name, sampler.display, *sampler.aliases)):
            for end, meant in ends.items():
                found.setdefault(name + end, meant)
                found.setdefault(f"k{name}{end}", meant)
    return MappingProxyType(found)


_ALIASES = _aliases()
_ABSENT = MappingProxyType({_folded(name): (name, near) for name, near in ABSENT.items()})
