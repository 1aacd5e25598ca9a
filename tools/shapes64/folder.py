"""The diffusers folder that ships: every part in fp16, no path of this machine in any file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTextModel

from imagemill.worker.scores.shapes64.captions import caption_words
from tools.shapes64.diffusion import Denoiser
from tools.shapes64.tokenizer import write_tokenizer

PRIVATE_KEYS = ("_name_or_path", "name_or_path")
"""Config entries that would tell where a file lay on the machine that trained."""


def write_folder(folder: Path, vae: AutoencoderKL, denoiser: Denoiser) -> None:
    """Write the pipeline with the averaged weights; the folder loads with `from_pretrained`."""
    text_encoder, unet = denoiser.averaged
    assert isinstance(text_encoder, CLIPTextModel)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=denoiser.tokenizer,
        unet=unet,
        scheduler=denoiser.sampler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(memory_format=torch.contiguous_format)
    pipeline.to(dtype=torch.float16)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline.save_pretrained(folder, safe_serialization=True)
    pipeline.to(dtype=torch.float32)
    write_tokenizer(folder / "tokenizer", caption_words())
    _ship_pndm_option(folder / "scheduler" / "scheduler_config.json")
    for path in sorted(folder.rglob("*.json")):
        _forget_paths(path)


def _ship_pndm_option(path: Path) -> None:
    """PNDM made from this config skips its Runge-Kutta start, as in Stable Diffusion's configs."""
    content = json.loads(path.read_text()) | {"skip_prk_steps": True}
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _forget_paths(path: Path) -> None:
    content = json.loads(path.read_text())
    private = [key for key in PRIVATE_KEYS if key in content]
    if private:
        kept = {key: value for key, value in content.items() if key not in private}
        path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
