"""A ControlNet for shapes64: it draws shapes where an outline says, turned and sized as there.

Words tell shapes64 five positions, three sizes, and nothing of an angle. The outlines of training
stand anywhere, up to three in a picture, and half of them are turned.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional

from imagemill.worker.scores.shapes64.captions import training_caption
from imagemill.worker.scores.shapes64.drawing import (
    SIDE,
    Floats,
    Scene,
    Shape,
    cover,
    paint,
    random_scene,
)
from tools.shapes64.autoencoder import SCALING, encode, pixels
from tools.shapes64.crew import Crew
from tools.shapes64.diffusion import tokenised, with_noise
from tools.shapes64.muon import Muon, warm_hold_cool

PICTURES_STAGE, STAGE = 12, 13
RADII = (7.0, 22.0)
"""Half of a shape's height in pixels."""


@dataclass(frozen=True, kw_only=True)
class OutlinePlan:
    """From which model, into which folder, and how long and how fast; `batch` is per process.

    `start` is a folder with a ControlNet to go on from: the rate then falls to nothing at once.
    """

    model: Path
    out: Path
    steps: int
    batch: int
    pictures: int
    rate: float = 0.01
    save_every: int = 100
    start: Path | None = None


def outline(coverage: Floats) -> NDArray[np.uint8]:
    """The edges of shapes as a ControlNet reads them: (64, 64, 3) bytes, white on black."""
    filled = Image.fromarray(np.rint(coverage * 255).astype(np.uint8))
    inside = filled.filter(ImageFilter.MinFilter(3))
    edge = np.asarray(filled, dtype=np.int16) - np.asarray(inside, dtype=np.int16)
    return np.repeat(edge.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def anywhere(kind: str, rng: np.random.Generator) -> Floats:
    """One to three shapes of a kind, at any place and angle: how much they cover of each pixel."""
    together: Floats = np.zeros((SIDE, SIDE), dtype=np.float32)
    count = int(rng.choice([1, 1, 1, 2, 2, 3]))
    for _ in range(count):
        radius = rng.uniform(RADII[0], RADII[1] / count**0.5)
        reach = SIDE / 2 - 1.1 * radius - 2
        x, y = SIDE / 2 + rng.uniform(-reach, reach, size=2)
        one = cover([Shape(kind=kind, x=x, y=y, radius=radius)])
        if rng.random() < 0.5:
            drawn = Image.fromarray(one).rotate(
                rng.uniform(0, 360), Image.Resampling.BICUBIC, center=(x, y)
            )
            one = np.asarray(drawn, dtype=np.float32).clip(0, 1)
        together = np.maximum(together, one)
    return together


def new_controlnet(unet: Any) -> ControlNetModel:
    """A copy of the U-Net's first half, with zeros where it is added: it changes nothing yet."""
    return ControlNetModel.from_unet(
        unet,
        conditioning_channels=3,
        conditioning_embedding_out_channels=(16, 32, 64),  # two halvings, as the VAE has
    )


def drawn_scenes(
    pipeline: StableDiffusionPipeline, count: int, rng: np.random.Generator
) -> tuple[list[Scene], Tensor, Tensor]:
    """Scenes, their outlines as bytes (n, 3, 64, 64), and the scaled latents of their pictures."""
    scenes, outlines, parts = [], [], []
    for start in range(0, count, 64):
        pictures = []
        for _ in range(start, min(count, start + 64)):
            scene = replace(random_scene(rng, unseen=False), position="centre", size="medium")
            coverage = anywhere(scene.kind, rng)
            scenes.append(scene)
            outlines.append(torch.from_numpy(outline(coverage)).permute(2, 0, 1))
            pictures.append(paint(coverage, colour=scene.colour, background=scene.background))
        parts.append(encode(pipeline.vae, pixels(pictures)) * SCALING)
    return scenes, torch.stack(outlines), torch.cat(parts)


def caption_of(scene: Scene, rng: np.random.Generator) -> str:
    """What training says of a scene. Of its size, place and number the outline tells."""
    return training_caption(replace(scene, count=1), rng)


def control_loss(
    pipeline: Any,
    controlnet: ControlNetModel,
    latents: Tensor,
    hints: Tensor,
    captions: list[str],
    noise: torch.Generator,
) -> Tensor:
    """The mean squared error of v with the ControlNet, timesteps spread evenly over the batch."""
    noisy, drawn, times = with_noise(pipeline.scheduler, latents, noise)
    with torch.no_grad():
        context = pipeline.text_encoder(tokenised(pipeline.tokenizer, captions))[0]
    down, middle = controlnet(
        noisy, times, encoder_hidden_states=context, controlnet_cond=hints, return_dict=False
    )
    predicted = pipeline.unet(
        noisy,
        times,
        encoder_hidden_states=context,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample
    return functional.mse_loss(predicted, pipeline.scheduler.get_velocity(latents, drawn, times))


def train_outline(crew: Crew, options: OutlinePlan) -> None:
    """Train the ControlNet while the model itself stays as it is, and save it in fp16."""
    pipeline: Any = StableDiffusionPipeline.from_pretrained(options.model, dtype=torch.float32)
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        part.eval().requires_grad_(False)
    pipeline.unet.to(memory_format=torch.channels_last)
    scenes, outlines, latents = drawn_scenes(
        pipeline, options.pictures, crew.rng(PICTURES_STAGE, 0)
    )
    crew.say(f"{len(scenes)} pictures, latents {tuple(latents.shape)}")
    controlnet = _first(pipeline, options).train().to(memory_format=torch.channels_last)
    muon = Muon([controlnet], peak=options.rate, peak_rest=2e-3)
    recent = 0.0
    for step in range(options.steps):
        rng = crew.rng(STAGE, step)
        chosen = rng.integers(len(scenes), size=options.batch)
        captions = [caption_of(scenes[i], rng) for i in chosen]
        picked = torch.from_numpy(chosen)
        hints = (outlines[picked].float() / 255).contiguous(memory_format=torch.channels_last)
        batch = latents[picked].contiguous(memory_format=torch.channels_last)
        loss = control_loss(
            pipeline, controlnet, batch, hints, captions, crew.generator(STAGE, step)
        )
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        crew.average_gradients(controlnet.parameters())
        muon.step(_share(step, options))
        recent = 0.98 * recent + 0.02 * loss.item() if step else loss.item()
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            crew.say(f"outline {step + 1}/{options.steps}  loss {recent:.4f}")
            if crew.rank == 0:
                save_in_fp16(controlnet, options.out)


def _first(pipeline: Any, options: OutlinePlan) -> Any:
    if options.start is None:
        return new_controlnet(pipeline.unet)
    return ControlNetModel.from_pretrained(options.start, dtype=torch.float32)


def _share(step: int, options: OutlinePlan) -> float:
    """The share of the peak rate at a step."""
    if options.start is None:
        return warm_hold_cool(step, options.steps)
    return 1 - step / options.steps


def save_in_fp16(controlnet: ControlNetModel, folder: Path) -> None:
    """Save a copy of the ControlNet, which goes on training."""
    copy: Any = deepcopy(controlnet).to(torch.float16, memory_format=torch.contiguous_format)
    copy.save_pretrained(folder)
