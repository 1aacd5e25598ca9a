"""An IP-Adapter for shapes64: it draws in the two colours that a reference picture shows.

First its image encoder learns to tell the colours of a shape and of its background. Then the
adapter learns from shapes64 itself: with a prompt that names no colours, and the picture, it is to
predict what shapes64 predicts for the prompt that does.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from imagemill.worker.scores.shapes64.captions import COLOUR_WORDS, describe
from imagemill.worker.scores.shapes64.drawing import COLOURS, SIDE, Scene, draw, random_scene
from tools.shapes64.autoencoder import SCALING, encode, pixels
from tools.shapes64.crew import Crew
from tools.shapes64.diffusion import tokenised, with_noise
from tools.shapes64.muon import Muon, warm_hold_cool

PICTURES_STAGE, SIGHT_STAGE, STAGE = 22, 23, 24
SEEN, TOKENS = 64, 4
"""The width of the encoder's embedding, and the tokens that the U-Net reads of it."""

WITH_NEITHER, WITHOUT_PICTURE, WITHOUT_WORDS = 0.05, 0.07, 0.08
"""The shares of training with no caption and no picture, with a caption of colours alone, and with
a picture alone: so that guidance works, and a picture that is left out changes nothing."""

WEIGHTS, ENCODER = "ip-adapter.safetensors", "image_encoder"
"""The adapter's file, and the folder beside it."""

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_SPREAD = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's image processor, which diffusers puts before the encoder."""

_WORDS = "|".join(sorted({word for words in COLOUR_WORDS.values() for word in words}))
_GROUND = re.compile(
    rf"(?:,| on| over| against| with)? ?(?:an? )?(?:{_WORDS}) (?:background|backdrop)(?:,| with)?"
)
_COLOUR = re.compile(rf"\b(an? )?(?:{_WORDS}) ")


@dataclass(frozen=True, kw_only=True)
class PalettePlan:
    """From which model, into which folder, and how long; `batch` is per process.

    `pictures` is the number of drawn pictures to learn from, and of references to see.
    """

    model: Path
    out: Path
    steps: int
    sight_steps: int
    batch: int
    pictures: int
    rate: float = 0.01
    save_every: int = 100


def without_colours(caption: str) -> str:
    """The caption without the words for colours, and without what it says of the background."""
    shape = _COLOUR.sub(lambda found: "a " if found[1] else "", _GROUND.sub("", caption))
    return re.sub(r" +", " ", shape).strip(" ,")


def new_encoder() -> CLIPVisionModelWithProjection:
    """The untrained image encoder."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=SEEN,
            intermediate_size=2 * SEEN,
            projection_dim=SEEN,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=8,
        )
    )


def as_clip_sees(pictures: Tensor) -> Tensor:
    """Pictures from -1 to 1, normalised as CLIP's image processor does it."""
    mean, spread = (torch.tensor(each).view(1, 3, 1, 1) for each in (_MEAN, _SPREAD))
    return (pictures / 2 + 0.5 - mean) / spread


def references(count: int, rng: np.random.Generator) -> tuple[list[Scene], Tensor]:
    """Scenes and their pictures, (n, 3, 64, 64) from -1 to 1, in colours a little off."""
    scenes = [random_scene(rng, unseen=bool(rng.random() < 0.1)) for _ in range(count)]
    drawn = [
        np.clip(draw(scene, rng) + rng.uniform(-12, 12, size=3), 0, 255).astype(np.uint8)
        for scene in scenes
    ]
    return scenes, pixels(drawn)


def train_encoder(
    crew: Crew, plan: PalettePlan, scenes: Sequence[Scene], pictures: Tensor
) -> CLIPVisionModelWithProjection:
    """An encoder whose embedding tells a shape's colour and its background, by a linear layer."""
    encoder, names = new_encoder().train(), list(COLOURS)
    wanted = torch.tensor([[names.index(s.colour), names.index(s.background)] for s in scenes])
    heads = nn.ModuleList([nn.Linear(SEEN, len(names)) for _ in range(2)])
    muon = Muon([encoder, heads], peak=plan.rate, peak_rest=2e-3)
    right = 0.0
    for step in range(plan.sight_steps):
        chosen = torch.from_numpy(crew.rng(SIGHT_STAGE, step).integers(len(scenes), size=64))
        seen = encoder(as_clip_sees(pictures[chosen])).image_embeds
        scores = torch.stack([head(seen) for head in heads], dim=1)
        functional.cross_entropy(scores.flatten(0, 1), wanted[chosen].flatten()).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        crew.average_gradients([*encoder.parameters(), *heads.parameters()])
        muon.step(warm_hold_cool(step, plan.sight_steps))
        both = (scores.argmax(-1) == wanted[chosen]).all(1).float().mean().item()
        right = 0.9 * right + 0.1 * both
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.sight_steps:
            crew.say(f"encoder {step + 1}/{plan.sight_steps}  both colours right {right:.3f}")
    return encoder.eval().requires_grad_(False)


def readers(unet: Any) -> list[tuple[Any, Any]]:
    """The attention layers that read captions, with their processors, in the order of a file."""
    return [
        (unet.get_submodule(name.removesuffix(".processor")), processor)
        for name, processor in unet.attn_processors.items()
        if name.endswith("attn2.processor")
    ]


def save_new_adapter(pipeline: Any, folder: Path) -> None:
    """Save an untrained adapter, which reads its tokens as the pipeline's U-Net reads captions."""
    read = pipeline.unet.config.cross_attention_dim
    # Its tokens have the scale of the text encoder's, and are read with the same weights.
    norm = pipeline.text_encoder.final_layer_norm
    weights = {
        "image_proj.proj.weight": torch.randn(TOKENS * read, SEEN) / SEEN**0.5,
        "image_proj.proj.bias": torch.zeros(TOKENS * read),
        "image_proj.norm.weight": norm.weight,
        "image_proj.norm.bias": norm.bias,
    }
    for number, (attention, _) in enumerate(readers(pipeline.unet)):
        weights[f"ip_adapter.{2 * number + 1}.to_k_ip.weight"] = attention.to_k.weight
        weights[f"ip_adapter.{2 * number + 1}.to_v_ip.weight"] = attention.to_v.weight
    _save(weights, folder)


def put_adapter(pipeline: Any, folder: Path) -> list[nn.Module]:
    """Put the adapter of a folder into the pipeline; the modules that are to be trained."""
    pipeline.load_ip_adapter(
        str(folder), subfolder="", weight_name=WEIGHTS, image_encoder_folder=f"./{ENCODER}"
    )
    pipeline.set_ip_adapter_scale(1.0)
    reading = [processor for _, processor in readers(pipeline.unet)]
    modules = [pipeline.unet.encoder_hid_proj, *reading]
    for module in modules:
        module.requires_grad_(True)
    return modules


def save_adapter(unet: Any, folder: Path) -> None:
    """Save the U-Net's IP-Adapter in fp16, in the layout of `h94/IP-Adapter`."""
    layer = unet.encoder_hid_proj.image_projection_layers[0]
    weights = {
        "image_proj.proj.weight": layer.image_embeds.weight,
        "image_proj.proj.bias": layer.image_embeds.bias,
        "image_proj.norm.weight": layer.norm.weight,
        "image_proj.norm.bias": layer.norm.bias,
    }
    for number, (_, processor) in enumerate(readers(unet)):
        for part in ("to_k_ip", "to_v_ip"):
            key = f"ip_adapter.{2 * number + 1}.{part}.weight"
            weights[key] = getattr(processor, part)[0].weight
    _save(weights, folder)


def _save(weights: Mapping[str, Tensor], folder: Path) -> None:
    halves = {name: each.detach().half().contiguous() for name, each in weights.items()}
    save_file(halves, folder / WEIGHTS)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Latents, embeddings of references (zeros for none), and captions without colours and with."""

    latents: Tensor
    seen: Tensor
    told: list[str]
    full: list[str]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What the adapter learns from: scenes, their latents, and embeddings of their colours.

    `seen` (n, 64) is of references; `alike` says which of them have a shape's and a background's
    colour.
    """

    scenes: Sequence[Scene]
    latents: Tensor
    seen: Tensor
    alike: Mapping[tuple[str, str], Sequence[int]]

    def batch(self, size: int, rng: np.random.Generator) -> Batch:
        """So many scenes, each with one of its references or none, and its captions."""
        chosen, told, full = rng.integers(len(self.scenes), size=size), [], []
        seen = torch.zeros(size, SEEN)
        for place, number in enumerate(chosen):
            scene, chance = self.scenes[number], rng.random()
            neither = chance < WITH_NEITHER
            blind = chance < WITH_NEITHER + WITHOUT_PICTURE
            silent = chance < WITH_NEITHER + WITHOUT_PICTURE + WITHOUT_WORDS
            said = "" if neither else describe(scene, rng)
            full.append(said)
            told.append(said if blind else "" if silent else without_colours(said))
            if not blind:
                seen[place] = self.seen[rng.choice(self.alike[scene.colour, scene.background])]
        latents = self.latents[torch.from_numpy(chosen)]
        return Batch(latents=latents, seen=seen, told=told, full=full)


def palette_loss(pipeline: Any, batch: Batch, noise: torch.Generator) -> Tensor:
    """How far v with the adapter is from what shapes64 alone predicts for the full captions."""
    unet = pipeline.unet
    noisy, _, times = with_noise(pipeline.scheduler, batch.latents, noise)
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        told, full = (
            pipeline.text_encoder(tokenised(pipeline.tokenizer, captions))[0]
            for captions in (batch.told, batch.full)
        )
        pipeline.set_ip_adapter_scale(0.0)
        pictures = {"image_embeds": [batch.seen[:, None]]}
        wanted = unet(noisy, times, encoder_hidden_states=full, added_cond_kwargs=pictures).sample
    pipeline.set_ip_adapter_scale(1.0)
    predicted = unet(noisy, times, encoder_hidden_states=told, added_cond_kwargs=pictures).sample
    return functional.mse_loss(predicted, wanted)


def train_palette(crew: Crew, plan: PalettePlan) -> None:
    """Train the encoder, then the adapter, and save both in fp16; the model stays as it is."""
    pipeline: Any = StableDiffusionPipeline.from_pretrained(plan.model, dtype=torch.float32)
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        part.eval().requires_grad_(False)
    rng = crew.rng(PICTURES_STAGE, 0)
    shown, pictures = references(plan.pictures, rng)
    encoder = train_encoder(crew, plan, shown, pictures)
    if crew.rank == 0:
        encoder.half().save_pretrained(plan.out / ENCODER)
    crew.wait()
    with torch.no_grad():
        encoder.float()  # as fp16 has rounded it
        parts = [encoder(as_clip_sees(part)).image_embeds for part in pictures.split(64)]
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, scene in enumerate(shown):
        alike[scene.colour, scene.background].append(number)
    scenes = [random_scene(rng, unseen=False) for _ in range(plan.pictures)]
    scenes = [scene for scene in scenes if (scene.colour, scene.background) in alike]
    latents = encode(pipeline.vae, pixels([draw(scene, rng) for scene in scenes])) * SCALING
    crew.say(f"{len(scenes)} pictures, latents {tuple(latents.shape)}")
    lesson = Lesson(scenes=scenes, latents=latents, seen=torch.cat(parts), alike=alike)
    train_adapter(crew, plan, pipeline, lesson)


def train_adapter(crew: Crew, plan: PalettePlan, pipeline: Any, lesson: Lesson) -> None:
    """Train a new adapter, and save it every so often."""
    if crew.rank == 0:
        save_new_adapter(pipeline, plan.out)
    crew.wait()
    modules = put_adapter(pipeline, plan.out)
    parameters = [each for module in modules for each in module.parameters()]
    pipeline.unet.to(memory_format=torch.channels_last)
    muon = Muon(modules, peak=plan.rate, peak_rest=2e-3)
    recent = 0.0
    for step in range(plan.steps):
        batch = lesson.batch(plan.batch, crew.rng(STAGE, step))
        loss = palette_loss(pipeline, batch, crew.generator(STAGE, step))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        crew.average_gradients(parameters)
        muon.step(warm_hold_cool(step, plan.steps))
        recent = 0.98 * recent + 0.02 * loss.item() if step else loss.item()
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
            crew.say(f"palette {step + 1}/{plan.steps}  loss {recent:.4f}")
            if crew.rank == 0:
                save_adapter(pipeline.unet, plan.out)
