"""A pipeline folder's weights as one checkpoint file, with the keys of the original latent
diffusion code, as A1111 and ComfyUI pass them round. The inverse of diffusers' converter.
"""

import re
from collections.abc import Mapping, Sequence
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
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "encoder.layers.": "transformer.resblocks.",
    "self_attn.q_proj.": "attn.in_proj_",
    "self_attn": "attn",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def checkpoint_of(components: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The state of a U-Net, VAE and text encoder under one roof."""
    state: dict[str, torch.Tensor] = {}
    unet = components["unet"]
    for key, value in unet.state_dict().items():
        name = _unet_key(key, unet.config["layers_per_block"] + 1, unet.config["up_block_types"])
        state[f"model.diffusion_model.{name}"] = value
    vae = components["vae"]
    for key, value in vae.state_dict().items():
        name = _vae_key(key, len(vae.config["block_out_channels"]))
        # A linear layer is a convolution of one pixel there.
        linear = ".attn_1." in name and value.ndim == 2
        state[f"first_stage_model.{name}"] = value[:, :, None, None] if linear else value
    two_encoders = "text_encoder_2" in components
    first = "conditioner.embedders.0" if two_encoders else "cond_stage_model"
    for key, value in components["text_encoder"].state_dict().items():
        inner = key if key.startswith("text_model.") else f"text_model.{key}"
        state[f"{first}.transformer.{inner}"] = value
    if two_encoders:
        second = _open_clip(components["text_encoder_2"].state_dict())
        state |= {f"conditioner.embedders.1.model.{key}": value for key, value in second.items()}
    return {key: value.contiguous() for key, value in state.items()}


def _open_clip(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A CLIP text encoder's state as OpenCLIP names it: one projection for query, key and value."""
    found: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix("text_model.")
        if "position_ids" in name or ".k_proj." in name or ".v_proj." in name:
            continue
        for theirs, ours in _OPEN_CLIP.items():
            name = name.replace(theirs, ours)
        if ".q_proj." in key:
            parts = [state[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            found[name] = torch.cat(parts)
        else:
            found[name] = value.T if name == "text_projection" else value
    return found


def _unet_key(key: str, per_block: int, up_blocks: Sequence[str]) -> str:
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
            place = 2 if "CrossAttn" in up_blocks[block] else 1
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
    if "mid_block.attentions.0." in key:
        key = key.replace("mid_block.attentions.0.", "mid.attn_1.")
        for theirs, ours in _VAE_ATTENTION.items():
            key = key.replace(f".{theirs}.", f".{ours}.")
    return key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
