"""Safetensors files with tensors of zeros, written without torch."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_tensors(file: Path, shapes: Mapping[str, Sequence[int]]) -> Path:
    """A file with a tensor of 32-bit zeros of each shape, by name."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    size = 0
    for name, shape in shapes.items():
        end = size + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [size, end]}
        size = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    return file


LORA = {"unet.up.attn.to_q.lora_A.weight": (4, 8), "unet.up.attn.to_q.lora_B.weight": (8, 4)}
CONTROLNET = {"controlnet_down_blocks.0.weight": (8, 8, 1, 1)}
IP_ADAPTER = {"image_proj.proj.weight": (8, 8), "ip_adapter.1.to_k_ip.weight": (8, 8)}
