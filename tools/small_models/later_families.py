"""More small pipelines with random weights, of families that came later than `families`."""

from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import transformers

from tools.small_models import parts
from tools.small_models.parts import (
    GROUPED,
    VOCABULARY,
    WIDTH,
    gemma_2,
    qwen_3,
    t5,
    tokenizer,
    vae,
    words,
)


def stable_diffusion_3_5() -> Any:
    """With normalised queries and a second attention, as SD 3.5 medium has them."""
    return parts.stable_diffusion_3(channels=16, qk_norm="rms_norm", dual_attention_layers=(0,))


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


FAMILIES: Mapping[str, Callable[[], Any]] = {
    "aura_flow": aura_flow,
    "chroma": chroma,
    "cogview_4": cogview_4,
    "flux_2_klein": flux_2_klein,
    "hunyuan_dit": hunyuan_dit,
    "lumina_2": lumina_2,
    "stable_diffusion_3_5": stable_diffusion_3_5,
}
