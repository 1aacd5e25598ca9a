"""Models with random weights in the exact shapes of SD 1.5, SDXL and Flux; nothing is downloaded.

The denoisers and decoders are whole. Flux has small text encoders: each text is encoded once, which
is no part of what is compared here. `tiny` ones have a few channels and run anywhere.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from tools.small_models import parts
from tools.small_models.families import build
from tools.small_models.guided import save_sdxl, stable_diffusion

TOKENIZER = Path(__file__).parents[2] / "worker" / "shapes64" / "tokenizer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What is rendered with a model: sides in pixels, steps, guidance, and its precision.

    `sampler` is that of the model's own pipeline, so that all ways do the same work. `generic`
    models run in slots. `slots` are the values of B to measure.
    """

    name: str
    side: int
    tiny_side: int
    steps: int
    guidance_scale: float
    sampler: str
    dtype: str
    slots: tuple[int, ...]
    generic: bool = False

    def table(self, folder: Path, *, tiny: bool, gpu: bool) -> str:
        """The model's entry in a registry."""
        side = self.tiny_side if tiny else self.side
        lines = [
            f"[models.{self.name}]",
            f'source = "{folder}"',
            *(['kind = "generic"'] if self.generic else []),
            *([f'dtype = "{self.dtype}"'] if gpu else []),
            f"[models.{self.name}.defaults]",
            f"width = {side}",
            f"height = {side}",
            f"steps = {3 if tiny else self.steps}",
            f"guidance_scale = {self.guidance_scale}",
            f'sampler = "{self.sampler}"',
        ]
        return "\n".join(lines) + "\n"


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="sd15",
            side=512,
            tiny_side=64,
            steps=25,
            guidance_scale=7.5,
            sampler="ddim",
            dtype="fp16",
            slots=(1, 4, 8, 16, 32),
        ),
        Recipe(
            name="sdxl",
            side=1024,
            tiny_side=32,
            steps=20,
            guidance_scale=5.0,
            sampler="euler",
            dtype="fp16",
            slots=(1, 4, 8),
        ),
        Recipe(
            name="flux",
            side=1024,
            tiny_side=32,
            steps=20,
            guidance_scale=3.5,
            sampler="own",
            dtype="bf16",
            slots=(1, 2, 4),
            generic=True,
        ),
    )
}


def make(name: str, folder: Path, device: str, *, tiny: bool) -> None:
    """Save a model's pipeline into a folder, its weights in the precision that a GPU gets."""
    torch.manual_seed(0)
    if tiny:
        _make_tiny(name, folder)
        return
    dtype = torch.bfloat16 if RECIPES[name].dtype == "bf16" else torch.float16
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            pipeline = {"sd15": _sd15, "sdxl": _sdxl, "flux": _flux}[name]()
    finally:
        torch.set_default_dtype(default)
    pipeline.save_pretrained(folder, safe_serialization=True)


def _make_tiny(name: str, folder: Path) -> None:
    if name == "sdxl":
        save_sdxl(folder)
        return
    pipeline = stable_diffusion() if name == "sd15" else build("flux_dev")
    pipeline.save_pretrained(folder, safe_serialization=True)


def _sd15() -> Any:
    return diffusers.StableDiffusionPipeline(
        tokenizer=_tokenizer(),
        text_encoder=transformers.CLIPTextModel(_clip(768, layers=12, heads=12)),
        unet=diffusers.UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=768,
            block_out_channels=(320, 640, 1280, 1280),
            attention_head_dim=8,
        ),
        vae=_vae(latent_channels=4),
        scheduler=diffusers.DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> Any:
    second = _tokenizer()
    second.pad_token = "!"
    large = _clip(1280, layers=32, heads=20, projection_dim=1280, hidden_act="gelu")
    return diffusers.StableDiffusionXLPipeline(
        tokenizer=_tokenizer(),
        tokenizer_2=second,
        text_encoder=transformers.CLIPTextModel(_clip(768, layers=12, heads=12)),
        text_encoder_2=transformers.CLIPTextModelWithProjection(large),
        unet=diffusers.UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        vae=_vae(latent_channels=4, scaling_factor=0.13025, force_upcast=True),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        add_watermarker=False,
    )


def _flux() -> Any:
    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=64,
            num_layers=19,
            num_single_layers=38,
            attention_head_dim=128,
            num_attention_heads=24,
            joint_attention_dim=parts.WIDTH,
            pooled_projection_dim=parts.WIDTH,
            guidance_embeds=True,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
        ),
        vae=_vae(
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=parts.clip(projected=False),
        tokenizer=parts.tokenizer(length=77),
        text_encoder_2=parts.t5(),
        tokenizer_2=parts.tokenizer(length=512),
    )


def _vae(**config: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        **config,
    )


def _tokenizer() -> Any:
    return transformers.CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=77)


def _clip(width: int, *, layers: int, heads: int, **config: Any) -> Any:
    tokenizer = _tokenizer()
    return transformers.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        **config,
    )
