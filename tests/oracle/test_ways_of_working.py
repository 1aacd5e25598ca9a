"""Every way of working equals diffusers' own pipeline for one image, called by hand.

And the table of ways equals what the installed diffusers has.
"""

import inspect
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines import auto_pipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from imagemill.db.errors import ModelError, UsageError
from imagemill.db.models.registry import load_registry
from imagemill.db.models.ways import WAYS, changes_the_denoiser
from imagemill.db.specs import AddedModel, ImageSpec
from imagemill.worker.engine import Failed
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from tests.engine.pictures import Files, digest_of, left_half, scene
from tests.engine.rendering import hashes, pixels_of, render
from tests.oracle.registered import Shop, spec_of, table_of
from tools.oracle import worst_difference
from tools.small_models import save_controlnet, save_ip_adapter, stable_diffusion

SLOTS = 2
FILES = Files(scene(), left_half())
SCENE, MASK = digest_of(scene()), digest_of(left_half())
START = {"init_image": SCENE, "strength": 0.6}
INSIDE = {"init_image": SCENE, "mask": MASK, "strength": 0.8}
FROM = {"image": SCENE, "strength": 0.6}
WITHIN = {"image": SCENE, "mask_image": MASK, "strength": 0.8}
CONTROL = {"control_image": SCENE, "control_scale": 0.7}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("ways"), slots=SLOTS)
    sd = stable_diffusion()
    sd.save_pretrained(shop.folder / "sd")
    flux = diffusers.DiffusionPipeline.from_pretrained(shop.saved("flux_schnell"))
    save_controlnet(sd, shop.folder / "sd_control")
    save_controlnet(flux, shop.folder / "flux_control")
    save_ip_adapter(sd, shop.folder / "ip")
    _spoil(shutil.copytree(shop.folder / "ip", shop.folder / "bad") / "ip-adapter.safetensors")
    dev = diffusers.DiffusionPipeline.from_pretrained(shop.saved("flux_dev"))
    diffusers.FluxKontextPipeline(**dev.components).save_pretrained(shop.folder / "kontext")
    shop.register(
        table_of("sd", "sd"),
        'ip_adapter = "ip"',
        table_of("kontext", "kontext"),
        '[controlnets.sd]\nsource = "sd_control"',
        '[controlnets.flux_schnell]\nsource = "flux_control"',
        '[ip_adapters.ip]\nsource = "ip"\nweights = "ip-adapter.safetensors"',
        'image_encoder = "image_encoder"',
        '[ip_adapters.bad]\nsource = "bad"\nweights = "ip-adapter.safetensors"',
    )
    return shop


def _spoil(adapter: Path) -> None:
    """Make an IP-Adapter one that fails late: its attention fits, its projection does not."""
    weights = {name: tensor.clone() for name, tensor in load_file(adapter).items()}
    weights["image_proj.norm.weight"] = weights["image_proj.norm.weight"][1:].clone()
    save_file(weights, adapter)


def model_of(shop: Shop, name: str) -> Model:
    if name not in shop._models and name in ("sd", "kontext"):
        shop._models[name] = shop.load(name)
    return shop.model(name)


def spec_in(shop: Shop, name: str, changes: Mapping[str, Any]) -> ImageSpec:
    registry = load_registry(shop.settings)
    spec = spec_of(model_of(shop, name), steps=5, **changes)
    if spec.control_image is not None:
        digest = registry.find_controlnet(name).digest
        spec = replace(spec, controlnet=AddedModel(name=name, digest=digest))
    if spec.reference_image is not None and name == "sd":
        digest = registry.find_ip_adapter("ip").digest
        spec = replace(spec, ip_adapter=AddedModel(name="ip", digest=digest))
    return spec


def by_hand(shop: Shop, spec: ImageSpec, kind: str, given: Mapping[str, Any]) -> Any:
    """What a user of diffusers gets for these arguments."""
    folder = shop.folder / spec.model
    own = diffusers.DiffusionPipeline.from_pretrained(folder)
    added = {}
    if spec.controlnet is not None:
        net = WAYS[type(own).__name__].controlnet
        place = shop.folder / f"{spec.model.split('_')[0]}_control"
        added["controlnet"] = getattr(diffusers, net).from_pretrained(place)
    accepted = inspect.signature(getattr(diffusers, kind).__init__).parameters
    parts = {n: c for n, c in {**own.components, **added}.items() if n in accepted}
    if "requires_safety_checker" in accepted:
        parts["requires_safety_checker"] = False
    pipeline = getattr(diffusers, kind)(**parts)
    pipeline.set_progress_bar_config(disable=True)
    if spec.ip_adapter is not None:
        pipeline.load_ip_adapter(
            str(shop.folder / "ip"), subfolder="", weight_name="ip-adapter.safetensors"
        )
        pipeline.set_ip_adapter_scale(spec.reference_scale)
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
    pictures = {
        name: Image.open(BytesIO(FILES(value))) if value in (SCENE, MASK) else value
        for name, value in given.items()
    }
    arguments = {
        "prompt": spec.prompt,
        "num_inference_steps": spec.steps,
        "generator": torch.Generator().manual_seed(spec.seed),
        "width": spec.width,
        "height": spec.height,
        **pictures,
    }
    taken = inspect.signature(type(pipeline).__call__).parameters
    arguments = {name: value for name, value in arguments.items() if name in taken}
    with torch.no_grad():
        return np.asarray(pipeline(**arguments).images[0])


SD_SCALE = {"guidance_scale": 3.5}
TRUE_SCALE = {"true_cfg_scale": 3.5, "negative_prompt": ""}
CONTROLLED = {"controlnet_conditioning_scale": 0.7}

CASES: Mapping[str, tuple[str, Mapping[str, Any], str, Mapping[str, Any]]] = {
    "SD, image-to-image": ("sd", START, "StableDiffusionImg2ImgPipeline", FROM | SD_SCALE),
    "SD, inpainting": ("sd", INSIDE, "StableDiffusionInpaintPipeline", WITHIN | SD_SCALE),
    "SD, ControlNet": (
        "sd",
        CONTROL,
        "StableDiffusionControlNetPipeline",
        {"image": SCENE} | CONTROLLED | SD_SCALE,
    ),
    "SD, ControlNet and image-to-image": (
        "sd",
        CONTROL | START,
        "StableDiffusionControlNetImg2ImgPipeline",
        FROM | {"control_image": SCENE} | CONTROLLED | SD_SCALE,
    ),
    "SD, ControlNet and inpainting": (
        "sd",
        CONTROL | INSIDE,
        "StableDiffusionControlNetInpaintPipeline",
        WITHIN | {"control_image": SCENE} | CONTROLLED | SD_SCALE,
    ),
    "SD, IP-Adapter": (
        "sd",
        {"reference_image": SCENE, "reference_scale": 0.8},
        "StableDiffusionPipeline",
        {"ip_adapter_image": SCENE} | SD_SCALE,
    ),
    "Flux, image-to-image": ("flux_schnell", START, "FluxImg2ImgPipeline", FROM | TRUE_SCALE),
    "Flux, inpainting": ("flux_schnell", INSIDE, "FluxInpaintPipeline", WITHIN | TRUE_SCALE),
    "Flux, ControlNet": (
        "flux_schnell",
        CONTROL,
        "FluxControlNetPipeline",
        {"control_image": SCENE} | CONTROLLED | TRUE_SCALE,
    ),
    "SD 3, image-to-image": (
        "stable_diffusion_3",
        START,
        "StableDiffusion3Img2ImgPipeline",
        FROM | SD_SCALE,
    ),
    "Qwen-Image, image-to-image": (
        "qwen_image",
        START,
        "QwenImageImg2ImgPipeline",
        FROM | TRUE_SCALE,
    ),
    "Qwen-Image, inpainting": (
        "qwen_image",
        INSIDE,
        "QwenImageInpaintPipeline",
        WITHIN | TRUE_SCALE,
    ),
    "Z-Image, image-to-image": ("z_image", START, "ZImageImg2ImgPipeline", FROM | SD_SCALE),
    "LCM, image-to-image": (
        "latent_consistency",
        START,
        "LatentConsistencyModelImg2ImgPipeline",
        FROM | SD_SCALE,
    ),
    "Kontext": (
        "kontext",
        {"reference_image": SCENE},
        "FluxKontextPipeline",
        {"image": SCENE, "guidance_scale": 3.5, "max_area": 64 * 64},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_way_draws_what_diffusers_own_pipeline_draws(case: str, shop: Shop) -> None:
    name, changes, kind, given = CASES[case]
    spec = spec_in(shop, name, changes)
    engine = open_engine(model_of(shop, name), spec.group(), shop.settings, inputs=FILES)
    first, second = render(engine, [spec, replace(spec, seed=2, prompt="two green stars", steps=7)])

    pixels = pixels_of(first)
    assert pixels.std() > 1
    assert worst_difference(pixels, by_hand(shop, spec, kind, given)) <= 1
    # Neither the neighbour nor its own place in the pass counts.
    assert hashes(render(engine, [spec])) == hashes([first])
    assert hashes([first]) != hashes([second])


@pytest.mark.parametrize("name", ["sd", "flux_schnell", "stable_diffusion_3"])
def test_image_to_image_shares_passes_with_text_to_image(name: str, shop: Shop) -> None:
    specs = [spec_in(shop, name, {}), spec_in(shop, name, START)]
    engine = open_engine(model_of(shop, name), specs[0].group(), shop.settings, inputs=FILES)
    alone = [hashes(render(engine, [spec])) for spec in specs]
    before = engine.steps
    together = render(engine, specs)
    assert engine.steps - before == 5 * (2 if name == "flux_schnell" else 1)
    assert [hashes([result]) for result in together] == alone


def test_an_ip_adapter_leaves_nothing_behind(shop: Shop) -> None:
    plain = spec_in(shop, "sd", {})
    referred = spec_in(shop, "sd", {"reference_image": SCENE})
    model = model_of(shop, "sd")
    engine = open_engine(model, plain.group(), shop.settings, inputs=FILES)
    expected = hashes(render(engine, [plain]))
    other = open_engine(model, referred.group(), shop.settings, inputs=FILES)
    assert hashes(render(other, [referred])) != expected
    assert hashes(render(engine, [plain])) == expected


def test_an_ip_adapter_that_does_not_fit_leaves_nothing_behind(shop: Shop) -> None:
    plain = spec_in(shop, "sd", {})
    model = model_of(shop, "sd")
    engine = open_engine(model, plain.group(), shop.settings, inputs=FILES)
    expected = hashes(render(engine, [plain]))
    digest = load_registry(shop.settings).find_ip_adapter("bad").digest
    bad = replace(plain, reference_image=SCENE, ip_adapter=AddedModel(name="bad", digest=digest))
    with pytest.raises(ModelError, match="IP-Adapter bad"):
        open_engine(model, bad.group(), shop.settings, inputs=FILES)
    assert hashes(render(engine, [plain])) == expected


def test_an_ip_adapter_is_refused_beside_fused_projections(shop: Shop) -> None:
    settings = shop.settings.model_copy(update={"fuse_projections": True})
    model = load_model(load_registry(settings).find("sd"), settings=settings)
    spec = spec_in(shop, "sd", {"reference_image": SCENE})
    with pytest.raises(ModelError, match="unset IMAGEMILL_FUSE_PROJECTIONS"):
        open_engine(model, spec.group(), settings, inputs=FILES)


def test_a_parameter_that_only_text_to_image_has_is_refused_for_the_other_ways(
    shop: Shop,
) -> None:
    spec = spec_in(shop, "sd", START | {"guidance_rescale": 0.7})
    engine = open_engine(model_of(shop, "sd"), spec.group(), shop.settings, inputs=FILES)
    failed, drawn = render(engine, [spec, replace(spec, init_image=None, strength=None)])
    assert isinstance(failed, Failed)
    assert "StableDiffusionImg2ImgPipeline" in failed.error.message
    assert "takes no guidance_rescale" in failed.error.message
    assert not isinstance(drawn, Failed)


def test_what_a_pipeline_lacks_fails_that_image_alone(shop: Shop) -> None:
    spec = spec_of(shop.model("pixart_sigma"), init_image=SCENE)
    engine = open_engine(shop.model("pixart_sigma"), spec.group(), shop.settings, inputs=FILES)
    [failed] = render(engine, [spec])
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, UsageError)
    assert "takes no init_image" in failed.error.message


# The guidance interval ---------------------------------------------------------------------

INTERVALS = {"sd": SD_SCALE, "stable_diffusion_3": SD_SCALE, "flux_schnell": TRUE_SCALE}


@pytest.mark.parametrize("name", [*INTERVALS, "z_image", "qwen_image"])
def test_an_interval_of_all_or_nothing(name: str, shop: Shop) -> None:
    """Without one guided step an image is that without guidance; with all nothing changes."""
    guided = spec_in(shop, name, {"guidance_scale": 3.5})
    none = replace(guided, guidance_start=0.9, guidance_end=0.95)
    half = replace(guided, guidance_end=0.5)
    engine = open_engine(model_of(shop, name), guided.group(), shop.settings, inputs=FILES)
    whole, without, part = (pixels_of(each) for each in render(engine, [guided, none, half]))

    # Z-Image guides by `scale` where the others do by `scale - 1`.
    plain = replace(guided, guidance_scale=0.0 if name == "z_image" else 1.0)
    unguided = open_engine(model_of(shop, name), plain.group(), shop.settings, inputs=FILES)
    assert worst_difference(without, pixels_of(render(unguided, [plain])[0])) <= 1
    assert (part != whole).any()
    assert (part != without).any()


@pytest.mark.parametrize("name", ["sd", "stable_diffusion_3", "z_image", "flux_schnell"])
def test_a_step_without_guidance_takes_half_the_rows(
    name: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_in(shop, name, {"guidance_start": 0.2, "guidance_end": 0.6})
    model = model_of(shop, name)
    denoiser = model.components.get("transformer") or model.components["unet"]
    engine = open_engine(model, spec.group(), shop.settings, inputs=FILES)
    forward, rows = type(denoiser).forward, []

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        named = [kwargs[key] for key in ("sample", "hidden_states", "x") if key in kwargs]
        rows.append(len((named or args)[0]))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(denoiser), "forward", counted)
    both = [spec, replace(spec, seed=2)]
    together = hashes(render(engine, both))
    guided = [SLOTS, SLOTS] if name == "flux_schnell" else [2 * SLOTS]
    assert rows == [SLOTS, *guided, *guided, SLOTS, SLOTS]
    assert [hashes(render(engine, [each]))[0] for each in both] == together


def test_a_cutoff_equals_diffusers_own_callback(shop: Shop) -> None:
    spec = spec_in(shop, "sd", {"guidance_end": 0.4})
    engine = open_engine(model_of(shop, "sd"), spec.group(), shop.settings, inputs=FILES)
    [result] = render(engine, [spec])
    # The callback runs after a step, so guidance is gone from the one after it.
    cutoff = diffusers.callbacks.SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    given = SD_SCALE | {"callback_on_step_end": cutoff}
    expected = by_hand(shop, spec, "StableDiffusionPipeline", given)
    assert worst_difference(pixels_of(result), expected) <= 1


# The table -----------------------------------------------------------------------------------

_NOT_TAKEN = {
    "IFPipeline",  # draws in stages of its own
    "KandinskyCombinedPipeline",  # made of two pipelines
    "KandinskyV22CombinedPipeline",
}
_BESIDE_THE_MAPPING = {"ChromaPipeline"}


def _takes(class_name: str, parameter: str) -> bool:
    kind = getattr(diffusers, class_name)
    return parameter in inspect.signature(kind.__call__).parameters


@pytest.mark.parametrize(
    ("mapping", "field", "needs"),
    [
        (auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, "from_picture", "strength"),
        (auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING, "in_mask", "mask_image"),
    ],
)
def test_the_table_has_diffusers_own_pipelines(
    mapping: Mapping[str, Any], field: str, needs: str
) -> None:
    texts = auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING
    expected = {
        texts[key].__name__: kind.__name__
        for key, kind in mapping.items()
        if key in texts and _takes(kind.__name__, needs) and "controlnet" not in key
    }
    expected = {
        text: kind
        for text, kind in expected.items()
        if text not in _NOT_TAKEN and not changes_the_denoiser(text)
    }
    here = {kind.__name__ for kind in texts.values()} | _BESIDE_THE_MAPPING
    table = {
        text: getattr(ways, field)
        for text, ways in WAYS.items()
        if getattr(ways, field) and text in here
    }
    assert {text: kind for text, kind in table.items() if text not in _BESIDE_THE_MAPPING} == (
        expected
    )


@pytest.mark.parametrize("text", WAYS)
def test_every_class_of_the_table_takes_what_it_says(text: str) -> None:
    ways = WAYS[text]
    if hasattr(getattr(diffusers, text), "_backends"):
        pytest.skip(f"diffusers needs another package for {text}")
    for name in (ways.from_picture, ways.controlled_from_picture):
        assert not name or _takes(name, "strength")
    for name in (ways.in_mask, ways.controlled_in_mask):
        assert not name or _takes(name, "mask_image")
    for name in (ways.controlled, ways.controlled_from_picture, ways.controlled_in_mask):
        assert not name or _takes(name, "controlnet_conditioning_scale")
    assert bool(ways.controlnet) == bool(ways.controlled)
    assert not ways.controlnet or hasattr(diffusers, ways.controlnet)
    assert not ways.own_control or _takes(text, "control_image")
    assert ways.reference == "no" or _takes(text, "image")
    assert not ways.ip_adapter or hasattr(getattr(diffusers, text), "load_ip_adapter")


def test_pipelines_that_change_the_denoiser_during_a_call_are_known() -> None:
    folder = Path(diffusers.__file__).parent / "pipelines"
    found = set()
    for path in folder.glob("*/**/pipeline_*.py"):
        text = path.read_text("utf-8")
        draws = "text_to_video" not in path.name and "animatediff" not in path.name
        if draws and re.search(r"(unet|transformer)\.set_attn_processor\(", text):
            found |= set(re.findall(r"^class (\w*Pipeline(?!Output)\w*)\(", text, re.MULTILINE))
    assert len(found) > 10
    assert {name for name in found if not changes_the_denoiser(name)} == set()
    assert not any(changes_the_denoiser(name) for name in WAYS)
