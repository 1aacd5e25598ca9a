"""Small pipelines whose prompts are read by a language model, with random weights."""

from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import transformers

from tools.small_models.parts import (
    GROUPED,
    VOCABULARY,
    WIDTH,
    gemma_2,
    qwen_3,
    tokenizer,
    vae,
    words,
)


def cogview_4() -> Any:
    glm = transformers.GlmConfig(**GROUPED, pad_token_id=0)
    return diffusers.CogView4Pipeline(
        transformer=diffusers.CogView4Transformer2DModel(
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            out_channels=4,
            text_embed_dim=WIDTH,
            time_embed_dim=8,
            condition_dim=4,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            base_shift=0.25,
            max_shift=0.75,
            base_image_seq_len=256,
            use_dynamic_shifting=True,
            time_shift_type="linear",
        ),
        vae=vae(channels=4),
        text_encoder=transformers.GlmModel(glm),
        tokenizer=tokenizer(length=1024),
    )


def flux_2_klein() -> Any:
    # The pipeline reads the states of layers 9, 18 and 27.
    width = 16
    return diffusers.Flux2KleinPipeline(
        transformer=diffusers.Flux2Transformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * width,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=diffusers.AutoencoderKLFlux2(
            block_out_channels=(8, 8, 8, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
        ),
        text_encoder=qwen_3(layers=27, width=width, causal=True),
        tokenizer=tokenizer(length=512, ends=False),
    )


def lumina_2() -> Any:
    return diffusers.Lumina2Pipeline(
        transformer=diffusers.Lumina2Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            hidden_size=32,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(8, 4, 4),
            cap_feat_dim=WIDTH,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(channels=4, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=gemma_2(),
        tokenizer=words(length=256),
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


FAMILIES: Mapping[str, Callable[[], Any]] = {
    "cogview_4": cogview_4,
    "flux_2_klein": flux_2_klein,
    "lumina_2": lumina_2,
    "qwen_image": qwen_image,
    "sana": sana,
    "z_image": z_image,
}
