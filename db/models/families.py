"""Model families as data: what a family needs beyond what diffusers' own metadata says.

A row gives the values that `imagemill models add` writes as a model's defaults, and what `imagemill
models list` says of it. A pipeline without a row works all the same: it is called with whatever
its signature has.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from imagemill.db.models.family import NAMES, Family


def find_family(
    pipeline: str, *, hub_name: str | None = None, denoiser: Mapping[str, Any] | None = None
) -> Family | None:
    """The family of a pipeline class, a name on the Hub and the denoiser's configuration.

    A row with the Hub's name goes first, because turbo and distilled models share the class of the
    model that they were made from. None if no row knows the class.
    """
    rows = [row for row in FAMILIES if pipeline in row.pipelines]
    wanted = (hub_name or "").lower()
    for row in rows:
        if wanted in {name.lower() for name in row.hub_names}:
            return row
    config = denoiser or {}
    for row in rows:
        if not row.by_name_only and all(
            config.get(key) == value for key, value in row.where.items()
        ):
            return row
    return None


_SD = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
)
_XL = (
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
)
_SD3 = ("StableDiffusion3Pipeline",)
_NO_REGIONS = frozenset({"compile_regions"})
_NO_FUSING = frozenset({"fuse_projections"})
_NEITHER = _NO_REGIONS | _NO_FUSING
_DISTILLED = MappingProxyType({"guidance_embeds": True})

FAMILIES: tuple[Family, ...] = (
    Family(
        name="stable_diffusion",
        title="Stable Diffusion 1.x and 2.x",
        pipelines=_SD,
        kind="text_to_image",
        size=None,
        steps=25,
        guidance_scale=7.5,
        dtype=None,
        hub_names=(
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "CompVis/stable-diffusion-v1-4",
            "Lykon/dreamshaper-8",
        ),
    ),
    Family(
        name="stable_diffusion_xl",
        title="SDXL",
        pipelines=_XL,
        kind="text_to_image",
        steps=30,
        guidance_scale=5.0,
        dtype=None,
        hub_names=("stabilityai/stable-diffusion-xl-base-1.0",),
    ),
    Family(
        name="stable_diffusion_xl_turbo",
        title="SDXL Turbo",
        pipelines=_XL,
        kind="text_to_image",
        by_name_only=True,
        size=512,
        steps=4,
        guidance_scale=0.0,
        dtype=None,
        hub_names=("stabilityai/sdxl-turbo",),
    ),
    Family(
        name="unconditional",
        title="DDPM and its kind, without prompts",
        pipelines=("DDPMPipeline", "DDIMPipeline"),
        kind="unconditional",
        size=None,
        steps=100,
        guidance_scale=1.0,
        guidance=None,
        dtype=None,
        lora=False,
        lacks=NAMES,
        hub_names=("google/ddpm-cat-256", "google/ddpm-celebahq-256"),
    ),
    Family(
        name="latent_consistency",
        title="Latent consistency",
        pipelines=("LatentConsistencyModelPipeline",),
        size=768,
        steps=4,
        guidance_scale=8.5,
        dtype=None,
        hub_names=("SimianLuo/LCM_Dreamshaper_v7",),
    ),
    Family(
        name="stable_diffusion_3",
        title="Stable Diffusion 3 and 3.5",
        pipelines=_SD3,
        steps=28,
        guidance_scale=4.5,
        lacks=_NO_REGIONS,
        hub_names=(
            "stabilityai/stable-diffusion-3.5-medium",
            "stabilityai/stable-diffusion-3.5-large",
            "stabilityai/stable-diffusion-3-medium-diffusers",
        ),
    ),
    Family(
        name="stable_diffusion_3_turbo",
        title="Stable Diffusion 3.5 Turbo",
        pipelines=_SD3,
        by_name_only=True,
        steps=4,
        guidance_scale=0.0,
        lacks=_NO_REGIONS,
        hub_names=("stabilityai/stable-diffusion-3.5-large-turbo",),
    ),
    Family(
        name="flux_dev",
        title="FLUX.1 dev (guidance is an input)",
        pipelines=("FluxPipeline",),
        where=_DISTILLED,
        steps=28,
        guidance_scale=3.5,
        hub_names=("black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-Krea-dev"),
    ),
    Family(
        name="flux_schnell",
        title="FLUX.1 schnell",
        pipelines=("FluxPipeline",),
        steps=4,
        guidance_scale=1.0,
        guidance="true_cfg_scale",
        hub_names=("black-forest-labs/FLUX.1-schnell",),
    ),
    Family(
        name="flux_kontext",
        title="FLUX.1 Kontext (edits a reference image)",
        pipelines=("FluxKontextPipeline",),
        steps=28,
        guidance_scale=2.5,
        hub_names=("black-forest-labs/FLUX.1-Kontext-dev",),
    ),
    Family(
        name="flux_2",
        title="FLUX.2 dev",
        pipelines=("Flux2Pipeline",),
        steps=50,
        guidance_scale=4.0,
        hub_names=("black-forest-labs/FLUX.2-dev",),
    ),
    Family(
        name="flux_2_klein",
        title="FLUX.2 klein",
        pipelines=("Flux2KleinPipeline",),
        steps=4,
        guidance_scale=1.0,
        hub_names=("black-forest-labs/FLUX.2-klein-4B", "black-forest-labs/FLUX.2-klein-9B"),
    ),
    Family(
        name="qwen_image",
        title="Qwen-Image",
        pipelines=("QwenImagePipeline",),
        size=1328,
        steps=50,
        guidance_scale=4.0,
        guidance="true_cfg_scale",
        hub_names=("Qwen/Qwen-Image", "Qwen/Qwen-Image-2512"),
    ),
    Family(
        name="qwen_image_edit",
        title="Qwen-Image-Edit (edits a reference image)",
        pipelines=("QwenImageEditPipeline", "QwenImageEditPlusPipeline"),
        steps=50,
        guidance_scale=4.0,
        guidance="true_cfg_scale",
        hub_names=("Qwen/Qwen-Image-Edit", "Qwen/Qwen-Image-Edit-2509"),
    ),
    Family(
        name="z_image",
        title="Z-Image Turbo",
        pipelines=("ZImagePipeline",),
        steps=9,
        guidance_scale=0.0,
        lacks=_NO_FUSING,
        hub_names=("Tongyi-MAI/Z-Image-Turbo",),
    ),
    Family(
        name="z_image_base",
        title="Z-Image",
        pipelines=("ZImagePipeline",),
        by_name_only=True,
        steps=50,
        guidance_scale=4.0,
        lacks=_NO_FUSING,
        hub_names=("Tongyi-MAI/Z-Image",),
    ),
    Family(
        name="sana",
        title="Sana",
        pipelines=("SanaPipeline",),
        steps=20,
        guidance_scale=4.5,
        lacks=_NO_REGIONS,
        hub_names=(
            "Efficient-Large-Model/Sana_1600M_1024px_diffusers",
            "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers",
        ),
    ),
    Family(
        name="sana_sprint",
        title="Sana Sprint",
        pipelines=("SanaSprintPipeline",),
        steps=2,
        guidance_scale=4.5,
        lacks=_NO_REGIONS,
        hub_names=("Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers",),
    ),
    Family(
        name="pixart",
        title="PixArt α and Σ",
        pipelines=("PixArtAlphaPipeline", "PixArtSigmaPipeline"),
        steps=20,
        guidance_scale=4.5,
        dtype="fp16",
        lora=False,
        lacks=_NO_REGIONS,
        hub_names=("PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", "PixArt-alpha/PixArt-XL-2-1024-MS"),
    ),
    Family(
        name="hunyuan_dit",
        title="HunyuanDiT",
        pipelines=("HunyuanDiTPipeline",),
        steps=50,
        guidance_scale=5.0,
        dtype="fp16",
        lora=False,
        lacks=_NO_REGIONS,
        hub_names=("Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers",),
    ),
    Family(
        name="hunyuan_image",
        title="HunyuanImage 2.1",
        pipelines=("HunyuanImagePipeline",),
        size=2048,
        steps=50,
        guidance_scale=3.25,
        guidance="distilled_guidance_scale",
        lora=False,
        hub_names=(
            "hunyuanvideo-community/HunyuanImage-2.1-Diffusers",
            "hunyuanvideo-community/HunyuanImage-2.1-Distilled-Diffusers",
        ),
    ),
    Family(
        name="kolors",
        title="Kolors",
        pipelines=("KolorsPipeline",),
        steps=50,
        guidance_scale=5.0,
        dtype="fp16",
        hub_names=("Kwai-Kolors/Kolors-diffusers",),
    ),
    Family(
        name="lumina_2",
        title="Lumina Image 2.0",
        pipelines=("Lumina2Pipeline",),
        steps=30,
        guidance_scale=4.0,
        lacks=_NEITHER,
        hub_names=("Alpha-VLLM/Lumina-Image-2.0",),
    ),
    Family(
        name="chroma",
        title="Chroma",
        pipelines=("ChromaPipeline",),
        steps=35,
        guidance_scale=5.0,
        hub_names=("lodestones/Chroma1-HD", "lodestones/Chroma1-Base"),
    ),
    Family(
        name="cogview_4",
        title="CogView4",
        pipelines=("CogView4Pipeline",),
        steps=50,
        guidance_scale=3.5,
        lacks=_NEITHER,
        hub_names=("zai-org/CogView4-6B",),
    ),
    Family(
        name="omnigen",
        title="OmniGen",
        pipelines=("OmniGenPipeline",),
        steps=50,
        guidance_scale=2.5,
        lora=False,
        lacks=_NEITHER,
        hub_names=("Shitao/OmniGen-v1-diffusers",),
    ),
    Family(
        name="aura_flow",
        title="AuraFlow",
        pipelines=("AuraFlowPipeline",),
        steps=50,
        guidance_scale=3.5,
        dtype="fp16",
        lacks=_NO_REGIONS,
        hub_names=("fal/AuraFlow-v0.3", "fal/AuraFlow"),
    ),
    Family(
        name="hidream",
        title="HiDream-I1",
        pipelines=("HiDreamImagePipeline",),
        steps=50,
        guidance_scale=5.0,
        lacks=_NEITHER,
        hub_names=("HiDream-ai/HiDream-I1-Full",),
    ),
)
"""The rows. Where several fit, the first counts."""
