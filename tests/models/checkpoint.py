"""A pipeline folder's weights as one checkpoint file, with the keys of the original latent
diffusion code, as A1111 and ComfyUI pass them round. The inverse of diffusers' converter.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


def checkpoint_of(components: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The state of a U-Net, VAE and text encoder under one roof."""
    state: dict[str, torch.Tensor] = {}
    unet = components["unet"]
    for key, value in unet.state_dict().items():
        name = _unet_key(key, unet.config["layers_per_block"] + 1)
        state[f"model.diffusion_model.{name}"] = value
    vae = components["vae"]
    for key, value in vae.state_dict().items():
        state[f"first_stage_model.{_vae_key(key, len(vae.config['block_out_channels']))}"] = value
    for key, value in components["text_encoder"].state_dict().items():
        inner = key if key.startswith("text_model.") else f"text_model.{key}"
        state[f"cond_stage_model.transformer.{inner}"] = value
    return {key: value.contiguous() for key, value in state.items()}


def _unet_key(key: str, per_block: int) -> str:
    down = re.match(r"down_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.*)", key)
    if down:
        block, kind, layer, rest = int(down[1]), down[2], int(down[3]), down[4]
        if kind == "downsamplers":
            return f"input_blocks.{1 + block * per_block + per_block - 1}.0.op." + rest[5:]
        return f"input_blocks.{1 + block * per_block + layer}." + _layer(kind, rest)
    up = re.match(r"up_blocks\.(\d+)\.(resnets|attentions|upsamplers)\.(\d+)\.(.*)", key)
    if up:
        block, kind, layer, rest = int(up[1]), up[2], int(up[3]), up[4]
        if kind == "upsamplers":
            with_attention = block == 1
            place = 2 if with_attention else 1
            return f"output_blocks.{block * per_block + per_block - 1}.{place}.{rest}"
        return f"output_blocks.{block * per_block + layer}." + _layer(kind, rest)
    for ours, theirs in _UNET.items():
        if key.startswith(ours + "."):
            rest = key[len(ours) + 1 :]
            return f"{theirs}." + (_resnet(rest) if "resnets" in ours else rest)
    raise KeyError(key)


def _layer(kind: str, rest: str) -> str:
    return "0." + _resnet(rest) if kind == "resnets" else "1." + rest


def _resnet(rest: str) -> str:
    part, _, kind = rest.partition(".")
    return f"{_RESNET[part]}.{kind}"


def _vae_key(key: str, levels: int) -> str:
    key = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", key)
    key = re.sub(
        r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.", key
    )
    key = re.sub(
        r"up_blocks\.(\d+)\.upsamplers\.0\.",
        lambda m: f"up.{levels - 1 - int(m[1])}.upsample.",
        key,
    )
    key = re.sub(r"mid_block\.resnets\.(\d)\.", lambda m: f"mid.block_{int(m[1]) + 1}.", key)
    return key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
