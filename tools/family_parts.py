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


def clip(*, projected: bool) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
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
    config = transformers.Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    return transformers.Qwen3ForCausalLM(config) if causal else transformers.Qwen3Model(config)


def gemma_2() -> Any:
    config = transformers.Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
    )
    return transformers.Gemma2Model(config)
