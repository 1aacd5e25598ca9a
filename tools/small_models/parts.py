"""Parts that the small random families share: tokenizers, text encoders and an autoencoder."""

from typing import Any

import diffusers
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

WIDTH = 32
"""Features of every text encoder here."""

_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
_SPECIAL = ("<pad>", "</s>", "<s>", "<unk>", "<|im_start|>", "<|im_end|>")
VOCABULARY = len(_SPECIAL) + len(_BYTES)

_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(*, length: int, ends: bool = True) -> Any:
    """Every byte a token; with `ends`, an end mark after every text, as T5 wants it."""
    vocabulary = {token: number for number, token in enumerate((*_SPECIAL, *_BYTES))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if ends:
        inner.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
        )
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_max_length=length,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    found.chat_template = _CHAT
    return found


def words(*, length: int) -> Any:
    """Every word a token, of those that the tests' prompts have; the rest is unknown."""
    known = [
        "a",
        "red",
        "circle",
        "two",
        "green",
        "stars",
        "on",
        "white",
        "background",
        "yellow",
        "heart",
        "black",
        "blue",
    ]
    vocabulary = {token: number for number, token in enumerate((*_SPECIAL, *known))}
    inner = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_max_length=length,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
    )


SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
"""The configuration of a small text encoder, in transformers' words."""
GROUPED = SMALL | {"num_key_value_heads": 1, "head_dim": 16}
"""The same for one with grouped queries."""


def clip(*, projected: bool) -> Any:
    config = transformers.CLIPTextConfig(
        **SMALL,
        projection_dim=WIDTH,
        max_position_embeddings=77,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    if projected:
        return transformers.CLIPTextModelWithProjection(config)
    return transformers.CLIPTextModel(config)


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=16, d_ff=2 * WIDTH, num_layers=2, num_heads=2
    )
    return transformers.T5EncoderModel(config)


def vae(*, channels: int, **config: Any) -> Any:
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=channels,
        **config,
    )


def qwen_3(*, layers: int, width: int = WIDTH, causal: bool = False) -> Any:
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    config = transformers.Qwen3Config(**GROUPED | sizes)
    return transformers.Qwen3ForCausalLM(config) if causal else transformers.Qwen3Model(config)


def gemma_2() -> Any:
    return transformers.Gemma2Model(transformers.Gemma2Config(**GROUPED, query_pre_attn_scalar=16))


def stable_diffusion(pipeline: Any, scheduler: Any, **unet: Any) -> Any:
    """A pipeline of Stable Diffusion's kind, of that class; `unet` are further arguments of it."""
    return pipeline(
        unet=diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=4,
            **unet,
        ),
        scheduler=scheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
        ),
        vae=vae(channels=4),
        text_encoder=clip(projected=False),
        tokenizer=tokenizer(length=77),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_3(*, channels: int, **transformer: Any) -> Any:
    """`channels` of the latents; `transformer` are further arguments of it."""
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=2 * WIDTH, d_kv=16, d_ff=64, num_layers=2, num_heads=2
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=channels,
            out_channels=channels,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=16,
            **transformer,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(channels=channels, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=clip(projected=True),
        tokenizer=tokenizer(length=77),
        text_encoder_2=clip(projected=True),
        tokenizer_2=tokenizer(length=77),
        text_encoder_3=transformers.T5EncoderModel(config),
        tokenizer_3=tokenizer(length=256),
    )
