"""Small pipelines of many families, with random weights, from their configurations alone.

What they draw is noise; that every part is there and wired as in the large ones is what counts.
64 x 64 pixels suit them all.
"""

from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import torch
import transformers

from tools.small_models import later_families, parts
from tools.small_models.parts import (
    VOCABULARY,
    WIDTH,
    clip,
    gemma_2,
    qwen_3,
    t5,
    tokenizer,
    vae,
    words,
)


def stable_diffusion_3() -> Any:
    return parts.stable_diffusion_3(channels=4)


def _flux(*, distilled: bool) -> Any:
    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=distilled,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
        ),
        vae=vae(channels=4, shift_factor=0.1, scaling_factor=0.4, use_quant_conv=False),
        text_encoder=clip(projected=False),
        tokenizer=tokenizer(length=77),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(length=512),
    )


def flux_dev() -> Any:
    return _flux(distilled=True)


def flux_schnell() -> Any:
    return _flux(distilled=False)


def pixart_sigma() -> Any:
    return diffusers.PixArtSigmaPipeline(
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=8,
            num_layers=2,
            patch_size=2,
            attention_head_dim=16,
            num_attention_heads=2,
            caption_channels=WIDTH,
            cross_attention_dim=32,
            in_channels=4,
            out_channels=8,
            use_additional_conditions=False,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
        vae=vae(channels=4),
        text_encoder=t5(),
        tokenizer=tokenizer(length=300),
    )


def sana() -> Any:
    autoencoder = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock", "ResBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock", "ResBlock"),
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        encoder_qkv_multiscales=((), (5,), ()),
        decoder_qkv_multiscales=((), (5,), ()),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        scaling_factor=0.4,
    )
    return diffusers.SanaPipeline(
        transformer=diffusers.SanaTransformer2DModel(
            sample_size=16,
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=16,
            num_cross_attention_heads=2,
            cross_attention_head_dim=16,
            cross_attention_dim=32,
            caption_channels=WIDTH,
        ),
        # Sana ships this sampler told to integrate a flow.
        scheduler=diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        vae=autoencoder,
        text_encoder=gemma_2(),
        # Byte by byte, the instruction that Sana puts before each prompt would take seconds.
        tokenizer=words(length=1000),
    )


def z_image() -> Any:
    return diffusers.ZImagePipeline(
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 4, 8],
            axes_lens=[1024, 32, 32],
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(channels=4, shift_factor=0.1, scaling_factor=0.4),
        text_encoder=qwen_3(layers=2),
        tokenizer=tokenizer(length=512, ends=False),
    )


def qwen_image() -> Any:
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": WIDTH,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3], "rope_type": "default"},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
        },
    )
    return diffusers.QwenImagePipeline(
        transformer=diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(8, 4, 4),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer(length=512, ends=False),
    )


def latent_consistency() -> Any:
    return parts.stable_diffusion(
        diffusers.LatentConsistencyModelPipeline, diffusers.LCMScheduler, time_cond_proj_dim=16
    )


FIRST = (
    "flux_dev",
    "flux_schnell",
    "latent_consistency",
    "pixart_sigma",
    "qwen_image",
    "sana",
    "stable_diffusion_3",
    "z_image",
)
"""The first families, whose seeds are their places here: their weights stay what they were."""

FAMILIES: Mapping[str, Callable[[], Any]] = {
    **later_families.FAMILIES,
    "flux_dev": flux_dev,
    "flux_schnell": flux_schnell,
    "latent_consistency": latent_consistency,
    "pixart_sigma": pixart_sigma,
    "qwen_image": qwen_image,
    "sana": sana,
    "stable_diffusion_3": stable_diffusion_3,
    "z_image": z_image,
}


def build(name: str) -> Any:
    """A family's pipeline, with the same weights every time."""
    later = sorted(FAMILIES.keys() - set(FIRST))
    torch.manual_seed((*FIRST, *later).index(name))
    return FAMILIES[name]()
