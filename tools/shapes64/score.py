"""How often pictures show the background, colour and kind that their prompts ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from imagemill.db.samplers.names import find_sampler
from imagemill.worker.scores.shapes64.captions import Wish, describe, understand
from imagemill.worker.scores.shapes64.drawing import Shape, cover, draw, paint, random_scene
from imagemill.worker.scores.shapes64.sight import Sight, look

PROMPT_SEED = 20_640
"""Seed of the scored prompts, apart from the training's seed; the prompts are of unseen scenes."""

Picture = Image.Image | NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Miss:
    """A picture that does not show what its prompt asks for."""

    number: int
    prompt: str
    seen: Sight


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Shares of pictures that are right, from 0 to 1."""

    pictures: int
    background: float
    colour: float
    kind: float
    everything: float
    misses: tuple[Miss, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Plain values for `--json`."""
        return asdict(self)


def score_wishes(
    pictures: Sequence[Picture], wishes: Sequence[Wish], prompts: Sequence[str]
) -> Scores:
    """Compare every picture with what was asked for."""
    rights, misses = [], []
    for number, (picture, wish, prompt) in enumerate(zip(pictures, wishes, prompts, strict=True)):
        seen = look(picture)
        right = (
            seen.background == wish.background,
            seen.colour == wish.colour,
            seen.kind == wish.kind,
        )
        rights.append((*right, all(right)))
        if not all(right):
            misses.append(Miss(number=number, prompt=prompt, seen=seen))
    if not rights:
        raise ValueError("no pictures to score")
    background, colour, kind, everything = np.mean(rights, axis=0).tolist()
    return Scores(
        pictures=len(rights),
        background=background,
        colour=colour,
        kind=kind,
        everything=everything,
        misses=tuple(misses),
    )


def score_pictures(pictures: Sequence[Picture], prompts: Sequence[str]) -> Scores:
    """Compare pictures with their prompts, each about one kind in one colour on a background.

    :raises ValueError: for a prompt that does not say these three, and for no pictures at all.
    """
    return score_wishes(pictures, [understand(prompt) for prompt in prompts], prompts)


def score_drawn(count: int, *, seed: int = 7) -> Scores:
    """Score the scorer: freshly drawn single shapes of any radius, anywhere, and scenes by turns.

    Templates are drawn at five radii in the middle of the picture; here radius and place are
    continuous, and half of the pictures are scenes as training draws them, pairs among them.
    """
    rng = np.random.default_rng([seed, 640])
    pictures, wishes, prompts = [], [], []
    for number in range(count):
        scene = random_scene(rng, unseen=number % 4 < 2)
        if number % 2:
            pictures.append(draw(scene, rng))
        else:
            radius = rng.uniform(7.5, 24)
            margin = 1.1 * radius + 2
            x, y = rng.uniform(margin, 64 - margin, size=2)
            shape = Shape(kind=scene.kind, x=x, y=y, radius=radius)
            pictures.append(paint(cover([shape]), colour=scene.colour, background=scene.background))
        wishes.append(Wish(background=scene.background, colour=scene.colour, kind=scene.kind))
        prompts.append(f"{scene.colour} {scene.kind} on {scene.background}")
    return score_wishes(pictures, wishes, prompts)


def random_prompts(count: int, *, seed: int = PROMPT_SEED, unseen: bool = True) -> list[str]:
    """Sentences about random scenes, by default only of triples that training never saw."""
    rng = np.random.default_rng(seed)
    return [describe(random_scene(rng, unseen=unseen), rng) for _ in range(count)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is asked to draw. Picture i has the seed `seed + i`, whatever the batch."""

    steps: int = 20
    guidance: float = 4.5
    seed: int = 0
    batch: int = 20


def load_pipeline(folder: Path, sampler: str | None) -> diffusers.StableDiffusionPipeline:
    """The folder's pipeline in fp32, with another of imagemill's samplers if one is named.

    :raises ValueError: when no sampler has that name.
    """
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    if sampler is not None:
        named = find_sampler(sampler)
        if named is None:
            raise ValueError(f"no sampler is called {sampler!r}")
        kind = getattr(diffusers, named.diffusers_class)
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **named.options)
    return pipeline


def paint_prompts(
    pipeline: diffusers.StableDiffusionPipeline, prompts: Sequence[str], recipe: Recipe
) -> list[Image.Image]:
    """One picture a prompt."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), recipe.batch):
        part = list(prompts[start : start + recipe.batch])
        seeds = range(recipe.seed + start, recipe.seed + start + len(part))
        made = pipeline(
            part,
            num_inference_steps=recipe.steps,
            guidance_scale=recipe.guidance,
            generator=[torch.Generator().manual_seed(number) for number in seeds],
        )
        pictures.extend(made.images)
    return pictures
