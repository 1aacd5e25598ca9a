"""Small pipelines whose prompts are read by text encoders (CLIP, T5, BERT), with random weights."""

from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import transformers

from tools.small_models import parts
from tools.small_models.parts import (
    VOCABULARY,
    WIDTH,
    clip,
    t5,
    tokenizer,
    vae,
)


def aura_flow() -> Any:
    umt5 = transformers.UMT5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=16, d_ff=2 * WIDTH, num_layers=2, num_heads=2
    )
    return diffusers.AuraFlowPipeline(
        transformer=diffusers.AuraFlowTransformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            caption_projection_dim=32,
            joint_attention_dim=WIDTH,
            out_channels=4,
            pos_embed_max_size=64,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73),
        vae=vae(channels=4),
        text_encoder=transformers.UMT5EncoderModel(umt5),
        tokenizer=tokenizer(length=256),
    )


def chroma() -> Any:
    pipeline = diffusers.ChromaPipeline(
        transformer=diffusers.ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 4, 8),
            approximator_hidden_dim=32,
            approximator_layers=1,
            approximator_num_channels=16,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(channels=4, shift_factor=0.1, scaling_factor=0.4, use_quant_conv=False),
        text_encoder=t5(),
        tokenizer=tokenizer(length=512),
    )
    # The model's class has no such argument, but published configurations have this line, and the
    # inpainting pipeline reads it.
    pipeline.transformer.register_to_config(guidance_embeds=False)
    return pipeline


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


def hunyuan_dit() -> Any:
    bert = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
    )
    return diffusers.HunyuanDiTPipeline(
        transformer=diffusers.HunyuanDiT2DModel(
            sample_size=8,
            num_layers=4,  # the fewest with which a ControlNet has a layer to add to
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            in_channels=4,
            cross_attention_dim=WIDTH,
            cross_attention_dim_t5=WIDTH,
            pooled_projection_dim=16,
            hidden_size=24,
            activation_fn="gelu-approximate",
        ),
        scheduler=diffusers.DDPMScheduler(),
        vae=vae(channels=4),
        text_encoder=transformers.BertModel(bert),
        tokenizer=tokenizer(length=77),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(length=256),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def latent_consistency() -> Any:
    return parts.stable_diffusion(
        diffusers.LatentConsistencyModelPipeline, diffusers.LCMScheduler, time_cond_proj_dim=16
    )


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


def stable_diffusion_3() -> Any:
    return parts.stable_diffusion_3(channels=4)


def stable_diffusion_3_5() -> Any:
    """With normalised queries and a second attention, as SD 3.5 medium has them."""
    return parts.stable_diffusion_3(channels=16, qk_norm="rms_norm", dual_attention_layers=(0,))


FAMILIES: Mapping[str, Callable[[], Any]] = {
    "aura_flow": aura_flow,
    "chroma": chroma,
    "flux_dev": flux_dev,
    "flux_schnell": flux_schnell,
    "hunyuan_dit": hunyuan_dit,
    "latent_consistency": latent_consistency,
    "pixart_sigma": pixart_sigma,
    "stable_diffusion_3": stable_diffusion_3,
    "stable_diffusion_3_5": stable_diffusion_3_5,
}
