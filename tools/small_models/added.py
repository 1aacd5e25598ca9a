"""Small ControlNets and IP-Adapters with random weights, for small pipelines."""

from collections.abc import Mapping
from math import log2
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders import SD3IPAdapterMixin
from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.embeddings import IPAdapterTimeImageProjection
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


_SEEN = 16
"""The width of what a small image encoder says of a picture."""
_EYE: Mapping[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def save_ip_adapter(pipeline: Any, folder: Path) -> Path:
    """An IP-Adapter for that pipeline's denoiser, and its image encoder beside it."""
    torch.manual_seed(7)
    if isinstance(pipeline, SD3IPAdapterMixin):
        config = transformers.SiglipVisionConfig(**_EYE, num_hidden_layers=2)
        encoder: Any = transformers.SiglipVisionModel(config)
        weights = _for_sd3(pipeline.transformer)
        # The worker needs no file for this; whoever calls diffusers by hand does.
        feeder = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
        feeder.save_pretrained(folder / "image_encoder")
    else:
        config = transformers.CLIPVisionConfig(**_EYE, num_hidden_layers=1, projection_dim=_SEEN)
        encoder = transformers.CLIPVisionModelWithProjection(config)
        has_unet = hasattr(pipeline, "unet")
        weights = _for_unet(pipeline.unet) if has_unet else _for_flux(pipeline.transformer)
    encoder.save_pretrained(folder / "image_encoder")
    save_file(weights, folder / "ip-adapter.safetensors")
    return folder


def _projection(read: int, *, tokens: int = 4) -> dict[str, torch.Tensor]:
    return {
        "image_proj.proj.weight": torch.randn(tokens * read, _SEEN),
        "image_proj.proj.bias": torch.randn(tokens * read),
        "image_proj.norm.weight": torch.ones(read),
        "image_proj.norm.bias": torch.zeros(read),
    }


def _for_unet(unet: Any) -> dict[str, torch.Tensor]:
    read = unet.config.cross_attention_dim
    weights = _projection(read)
    across = [name for name in unet.attn_processors if "attn2" in name]
    for number, name in enumerate(across):
        width = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for part in ("to_k_ip", "to_v_ip"):
            key = f"ip_adapter.{2 * number + 1}.{part}.weight"
            weights[key] = torch.randn(width, read) / read**0.5
    return weights


def _for_flux(transformer: Any) -> dict[str, torch.Tensor]:
    read, width = transformer.config.joint_attention_dim, transformer.inner_dim
    weights = _projection(read)
    for number in range(transformer.config.num_layers):
        for part in ("to_k_ip", "to_v_ip"):
            key = f"ip_adapter.{number}.{part}"
            weights[f"{key}.weight"] = torch.randn(width, read) / read**0.5
            weights[f"{key}.bias"] = torch.randn(width) / read**0.5
    return weights


def _for_sd3(transformer: Any) -> dict[str, torch.Tensor]:
    head = transformer.config.attention_head_dim
    width, deep = head * transformer.config.num_attention_heads, 64
    projection = IPAdapterTimeImageProjection(
        embed_dim=_EYE["hidden_size"],
        output_dim=width,
        hidden_dim=deep,
        heads=1,
        num_queries=4,
        timestep_in_dim=32,
    )
    weights = {f"image_proj.{key}": value for key, value in projection.state_dict().items()}
    for number in range(len(transformer.attn_processors)):
        reader = SD3IPAdapterJointAttnProcessor2_0(
            hidden_size=width, ip_hidden_states_dim=width, head_dim=head, timesteps_emb_dim=deep
        )
        state = {f"ip_adapter.{number}.{key}": value for key, value in reader.state_dict().items()}
        weights |= state
    return {key: value.detach().contiguous() for key, value in weights.items()}
