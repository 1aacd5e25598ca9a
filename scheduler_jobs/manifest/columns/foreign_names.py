"""Settings of other tools that imagemill does not have, and names that look like a setting.

In the tool that it comes from, such a column changes the pictures. As a plain extra it would change
nothing here, and nobody would notice. So it is refused, in one line that says how to go on.
"""

import functools
import re
import unicodedata
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\dA-Za-z_]+")


def folded(name: str) -> str:
    """A name without case, separators and blanks of any kind, for comparing."""
    return "".join(c for c in unicodedata.normalize("NFKC", name).casefold() if c.isalnum())


_NOTHING: frozenset[object] = frozenset({None, "", "none", "null", "false", "no", "[]", "{}"})
_ZERO = frozenset({"0", "0.0", "-1"})

FOREIGN: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        # AUTOMATIC1111, its web interface, its API and its infotext.
        "restore_faces": frozenset(),
        "face_restoration": frozenset(),
        "tiling": frozenset(),
        "styles": frozenset(),
        "subseed": _ZERO,
        "subseed_strength": _ZERO,
        "variation_seed": _ZERO,
        "variation_seed_strength": _ZERO,
        "variation_strength": _ZERO,
        "seed_resize_from": frozenset({"0x0"}),
        "seed_resize_from_h": _ZERO,
        "seed_resize_from_w": _ZERO,
        "enable_hr": frozenset(),
        "firstphase_width": _ZERO,
        "firstphase_height": _ZERO,
        "override_settings": frozenset(),
        "script_name": frozenset(),
        "script_args": frozenset(),
        "face_restore": frozenset(),
        "hypernetwork": frozenset(),
        "upscaler": frozenset(),
        "alwayson_scripts": frozenset(),
        "s_churn": _ZERO,
        "s_min_uncond": _ZERO,
        "s_tmin": _ZERO,
        "s_tmax": _ZERO,
        "s_noise": frozenset({"1", "1.0"}),
        "ensd": _ZERO,
        "eta_noise_seed_delta": _ZERO,
        "token_merging_ratio": _ZERO,
        "refiner_checkpoint": frozenset(),
        "init_images": frozenset(),
        "mask_blur": _ZERO,
        "inpainting_fill": _ZERO,
        "inpaint_full_res": _ZERO,
        "resize_mode": _ZERO,
        # Both tools' word for another autoencoder.
        "vae": frozenset({"automatic", "default (model)"}),
        "vae_name": frozenset({"automatic", "default (model)"}),
        # ComfyUI.
        "start_at_step": frozenset({"0"}),
        "end_at_step": frozenset({"10000"}),
        "add_noise": frozenset({"enable"}),
        "return_with_leftover_noise": frozenset({"disable"}),
        "stop_at_clip_layer": frozenset({"-1"}),
        "lora_name": frozenset(),
        "strength_model": frozenset(),
        "strength_clip": frozenset(),
        # InvokeAI.
        "seamless_x": frozenset(),
        "seamless_y": frozenset(),
        "perlin": _ZERO,
        "variation_amount": _ZERO,
        "positive_style_prompt": frozenset(),
        "negative_style_prompt": frozenset(),
        "controlnets": frozenset(),
        "ip_adapters": frozenset(),
        "t2i_adapters": frozenset(),
        # Fooocus.
        "style_selections": frozenset(),
        "performance": frozenset(),
        "performance_selection": frozenset(),
        "aspect_ratios_selection": frozenset(),
        "sharpness": _ZERO,
        "image_sharpness": _ZERO,
        "adm_guidance": frozenset(),
        "freeu": frozenset(),
        "refiner_model": frozenset(),
        "refiner_model_name": frozenset(),
        # SwarmUI.
        "aspect_ratio": frozenset({"custom"}),
        "side_length": _ZERO,
        "clip_stop_at_layer": frozenset({"-1"}),
        "lora_weights": frozenset(),
        "flux_guidance_scale": frozenset(),
        "refiner": frozenset(),
        "seamless_tileable": frozenset(),
        "refiner_method": frozenset(),
        "refiner_control": _ZERO,
        "refiner_upscale": frozenset({"1", "1.0"}),
        # kohya.
        "clip_prompt": frozenset(),
        "network_mul": frozenset({"1", "1.0"}),
        # diffusers.
        "prompt_2": frozenset(),
        "prompt_3": frozenset(),
        "negative_prompt_2": frozenset(),
        "negative_prompt_3": frozenset(),
        "true_cfg_scale": frozenset({"1", "1.0"}),
        "image_guidance_scale": frozenset(),
        "pag_scale": _ZERO,
        "denoising_start": _ZERO,
        "timesteps": frozenset(),
        "max_sequence_length": frozenset(),
        "cross_attention_kwargs": frozenset(),
        "lora_scale": frozenset({"1", "1.0"}),
        "ip_adapter": frozenset(),
        "sigmas": frozenset(),
        "crops_coords_top_left": frozenset({"(0, 0)", "[0, 0]"}),
        "original_size": frozenset(),
        "target_size": frozenset(),
        # Scripts of Stable Diffusion's first authors, and what others call an input picture.
        "ddim_eta": _ZERO,
        "denoise_strength": _ZERO,
        "noise_schedule": frozenset(),
        "init_image_path": frozenset(),
        "init_image_url": frozenset(),
        "init_img_path": frozenset(),
        "control_image_path": frozenset(),
        # OpenAI.
        "output_compression": frozenset({"100"}),
    }
)
"""Settings of known tools that imagemill does not have, and their values without an effect.

Empty values, `false` and `none` have no effect either.
"""

FOREIGN_PREFIXES = ("hr_", "hires_", "hrf_", "controlnet_")
"""The beginnings of names of whole groups of such settings in A1111, InvokeAI and SwarmUI."""

SWITCHES: Mapping[str, str] = MappingProxyType(
    {"hr": "enable_hr", "hrf": "hrf_enabled", "subseed": "subseed_strength"}
)
"""The first word of a name, and the column that can switch the setting off."""

NO_SETTINGS = frozenset(
    map(
        folded,
        (
            *("sample", "sampled", "sample_name", "mode", "modal", "models", "masks", "iteration"),
            *("long_prompt", "original_width", "original_height", "orig_width", "orig_height"),
            *("source_width", "source_height", "bbox_width", "bbox_height", "box_width"),
            *("box_height", "size_bytes", "cfgs"),
        ),
    )
)
"""Names that look like a setting but describe rows or pictures in data sets."""

_ANY_PREFIX = frozenset(
    {
        *("seed", "seeds", "steps", "inferencesteps", "width", "height", "negativeprompt"),
        *("guidancescale", "guidance", "cfgscale", "cfg", "sampler", "samplername", "scheduler"),
        *("clipskip", "denoisingstrength", "cfgrescale", "guidancerescale", "samplingsteps"),
    }
)
"""Names that mean a setting after any other word: `evaluation_seed`, `teacher_guidance_scale`."""

_TOOL_PREFIXES = frozenset(
    {
        *(
            "sd",
            "sdxl",
            "sd15",
            "sd1",
            "sd2",
            "sd3",
            "flux",
            "stablediffusion",
            "diffusion",
            "pipe",
        ),
        *(
            "a1111",
            "webui",
            "comfy",
            "comfyui",
            "invoke",
            "invokeai",
            "fooocus",
            "swarm",
            "swarmui",
        ),
        *("kohya", "diffusers", "gen", "generation", "generate", "eval", "evaluation", "target"),
        *("swarmui", "pipe", "output", "base", "render", "inference"),
    }
)
"""Words that, before a setting's name, mean the setting even if the name is an everyday word."""

_SIZE_PREFIXES = frozenset({"image", "img", "picture", "sdimage", "outputimage"})
_SUFFIXES = frozenset({"px", "pixel", "pixels", "value", "used"})

_SHORT, _LONG = 4, 10


@functools.lru_cache(maxsize=4096)
def foreign_name(column: str) -> str | None:
    """The other tool's setting that a column's name means; None if it means none."""
    name = folded(column)
    if name in _FOREIGN:
        return _FOREIGN[name]
    tokens = "_".join(_tokens(column)) + "_"
    # `hr_scale` counts, `hr` does not: alone it may mean an hour or a department.
    for prefix in FOREIGN_PREFIXES:
        if tokens.startswith(prefix) and len(tokens) > len(prefix):
            return tokens.rstrip("_")
    return None


def asks_for_nothing(name: str, value: Any, others: Mapping[str, Any]) -> bool:
    """Whether a tool's setting has no effect: by its value, or because it is switched off.

    `others` are the row's cells by folded name.
    """
    inert = FOREIGN.get(name, frozenset())
    switch = SWITCHES.get(name.partition("_")[0])
    if _is_nothing(value) or _text(value) in inert:
        return True
    if switch is None or switch == name or folded(switch) not in others:
        return False
    return asks_for_nothing(switch, others[folded(switch)], {})


def looks_like(column: str, names: Mapping[str, str]) -> str | None:
    """The field that a column's name seems to mean, although it is not one of its names.

    `names` maps the folded names of fields to the fields.
    """
    name = folded(column)
    if not name or name in names or name in NO_SETTINGS:
        return None
    return _without_affixes(column, names) or misspelt(column, names)


def _without_affixes(column: str, names: Mapping[str, str]) -> str | None:
    tokens = _tokens(column)
    if len(tokens) > 1 and (tokens[-1] in _SUFFIXES or tokens[-1].isdigit()):
        stem = "".join(tokens[:-1])
        if stem in _ANY_PREFIX and stem in names:
            return names[stem]
    for at in range(1, len(tokens)):
        prefix, stem = "".join(tokens[:at]), "".join(tokens[at:])
        if stem in names and (
            stem in _ANY_PREFIX
            or prefix in _TOOL_PREFIXES
            or (stem == "size" and prefix in _SIZE_PREFIXES)
        ):
            return names[stem]
    name = "".join(tokens)
    for prefix in _TOOL_PREFIXES:
        stem = name.removeprefix(prefix)
        if stem != name and stem in _ANY_PREFIX and stem in names:
            return names[stem]
    return None


def misspelt(column: str, names: Mapping[str, str]) -> str | None:
    """The field whose name this column's name nearly is, by one or two wrong letters.

    `names` maps the folded names of fields to the fields.
    """
    name = folded(column)
    if not name or name[-1].isdigit():
        return None  # data sets have numbered columns (`model_0`)
    for known, field in names.items():
        # The first letter must agree: it is seldom mistyped, and `weight` is not `height`.
        if name[0] != known[0] or abs(len(name) - len(known)) > 2 or len(known) < _SHORT:
            continue
        if len(known) == _SHORT:
            # `mark` is not `mask`: short words may only have an added, missing or swapped letter.
            close = sorted(name) == sorted(known) or (
                len(name) != len(known) and _distance(name, known) == 1
            )
        else:
            close = _distance(name, known) <= (2 if len(known) >= _LONG else 1)
        if close:
            return field
    return None


def _distance(one: str, other: str) -> int:
    """The number of letters to add, drop, replace or swap with a neighbour.

    This is the optimal string alignment distance (Damerau-Levenshtein, restricted).
    """
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        previous, row = row, [i]
        for j, b in enumerate(other, 1):
            cost = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before = previous
    return row[-1]


def _tokens(column: str) -> list[str]:
    return [t.casefold() for t in _TOKEN.findall(unicodedata.normalize("NFKC", column))]


def _is_nothing(value: Any) -> bool:
    if isinstance(value, (list, dict)):
        return not value
    return _text(value) in _NOTHING


def _text(value: Any) -> str | None:
    return None if value is None else str(value).strip().casefold()


_FOREIGN = MappingProxyType({folded(name): name for name in FOREIGN})
