"""Small ControlNets and IP-Adapters with random weights, for small pipelines."""

from math import log2
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

_SMALL = {"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
_READING = (16, 32, 96, 256)
"""Channels of the layers that read a control picture; each but the first halves its sides."""


def save_controlnet(pipeline: Any, folder: Path) -> Path:
    """A ControlNet for that pipeline's denoiser. Its last layers are not zeros, as new ones are."""
    torch.manual_seed(6)
    found = _from_unet(pipeline) if hasattr(pipeline, "unet") else _from_transformer(pipeline)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    found.save_pretrained(folder)
    return folder


def _from_unet(pipeline: Any) -> Any:
    halvings = int(log2(pipeline.vae_scale_factor))
    return diffusers.ControlNetModel.from_unet(
        pipeline.unet,
        conditioning_channels=3,
        conditioning_embedding_out_channels=_READING[: halvings + 1],
        load_weights_from_unet=False,
    )


def _from_transformer(pipeline: Any) -> Any:
    transformer = pipeline.transformer
    config = dict(transformer.config)
    match type(transformer).__name__:
        case "SD3Transformer2DModel":
            return diffusers.SD3ControlNetModel.from_config({**config, "num_layers": 1})
        case "SanaTransformer2DModel":
            return diffusers.SanaControlNetModel.from_config({**config, "num_layers": 1})
        case "HunyuanDiT2DModel":
            return diffusers.HunyuanDiT2DControlNetModel.from_transformer(
                transformer,
                transformer_num_layers=config["num_layers"],
                load_weights_from_transformer=False,
            )
        case "QwenImageTransformer2DModel":
            return diffusers.QwenImageControlNetModel.from_transformer(transformer, **_SMALL)
    return diffusers.FluxControlNetModel.from_transformer(
        transformer, num_single_layers=1, **_SMALL
    )


def save_lora(pipeline: Any, folder: Path, name: str) -> Path:
    """A LoRA for that pipeline's transformer, on its queries and values."""
    torch.manual_seed(8)
    transformer = pipeline.transformer
    names = [
        layer
        for layer, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and layer.rsplit(".", 1)[-1] in ("to_q", "to_v")
    ]
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=names))
    state = get_peft_model_state_dict(transformer)
    layers = {key: torch.randn_like(value) * 0.3 for key, value in state.items()}
    type(pipeline).save_lora_weights(
        folder, weight_name=f"{name}.safetensors", transformer_lora_layers=layers
    )
    return folder / f"{name}.safetensors"


def save_ip_adapter(pipeline: Any, folder: Path) -> Path:
    """An IP-Adapter for that pipeline's U-Net, and its image encoder beside it."""
    torch.manual_seed(7)
    read, seen, tokens = pipeline.unet.config.cross_attention_dim, 16, 4
    encoder = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            projection_dim=seen,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        )
    )
    encoder.save_pretrained(folder / "image_encoder")
    weights = {
        "image_proj.proj.weight": torch.randn(tokens * read, seen),
        "image_proj.proj.bias": torch.randn(tokens * read),
        "image_proj.norm.weight": torch.ones(read),
        "image_proj.norm.bias": torch.zeros(read),
    }
    across = [name for name in pipeline.unet.attn_processors if "attn2" in name]
    for number, name in enumerate(across):
        width = pipeline.unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for part in ("to_k_ip", "to_v_ip"):
            key = f"ip_adapter.{2 * number + 1}.{part}.weight"
            weights[key] = torch.randn(width, read) / read**0.5
    save_file(weights, folder / "ip-adapter.safetensors")
    return folder
