"""The text encoder and the conditional U-Net, trained together by v-prediction on latents."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from imagemill.worker.scores.shapes64.captions import training_caption
from imagemill.worker.scores.shapes64.drawing import Scene, draw, random_scene
from tools.shapes64.autoencoder import SCALING, encode, pixels
from tools.shapes64.crew import Crew, load
from tools.shapes64.muon import Muon, warm_hold_cool
from tools.shapes64.tokenizer import MAX_LENGTH

WIDTH = 96
"""Channels of a token in the text encoder and of the U-Net's cross-attention."""

PICTURES_STAGE, STAGE = 2, 3


@dataclass(frozen=True, kw_only=True)
class DiffusionPlan:
    """How long and how fast the denoiser trains; `batch` is per process."""

    steps: int
    batch: int
    pictures: int
    rate: float = 0.014
    averaging: float = 0.998
    save_every: int = 100


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The untrained text encoder; it knows the tokenizer's real start and end."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def new_denoiser() -> UNet2DConditionModel:
    """The untrained U-Net, for latents of 4 × 16 × 16."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def new_sampler() -> DDIMScheduler:
    """The noise schedule, and the sampler that ships. `clip_sample` has to be said: see README."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="leading",
    )


def with_noise(
    sampler: DDIMScheduler, latents: Tensor, noise: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, their noise, and their timesteps, spread evenly over the batch."""
    count = len(latents)
    spread = (torch.arange(count) + torch.rand(count, generator=noise)) / count
    times = (spread * sampler.config.num_train_timesteps).long()
    drawn = torch.randn(latents.shape, generator=noise)
    return sampler.add_noise(latents, drawn, times), drawn, times


def tokenised(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """The captions' tokens (n, 32), cut or padded."""
    tokens = tokenizer(
        captions, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
    )
    found: Tensor = tokens.input_ids
    return found


class Denoiser:
    """The two networks in training, and the running average of their weights that ships."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self.tokenizer = tokenizer
        self.text_encoder = new_text_encoder(tokenizer)
        self.unet = new_denoiser().to(memory_format=torch.channels_last)
        self.networks: list[nn.Module] = [self.text_encoder, self.unet]
        self.averaged = deepcopy(self.networks)
        self.sampler = new_sampler()

    def parameters(self) -> list[nn.Parameter]:
        """Every trained parameter, in a fixed order."""
        return [parameter for network in self.networks for parameter in network.parameters()]

    def loss(self, latents: Tensor, captions: list[str], noise: torch.Generator) -> Tensor:
        """The mean squared error of v, timesteps spread evenly over the batch."""
        noisy, drawn, times = with_noise(self.sampler, latents, noise)
        context = self.text_encoder(tokenised(self.tokenizer, captions))[0]
        predicted = self.unet(noisy, times, encoder_hidden_states=context).sample
        return functional.mse_loss(predicted, self.sampler.get_velocity(latents, drawn, times))

    @torch.no_grad()
    def average(self, share: float) -> None:
        """Move the averaged weights towards the trained ones, keeping `share` of them."""
        averaged: list[Tensor] = [w for network in self.averaged for w in network.parameters()]
        trained: list[Tensor] = [*self.parameters()]
        torch._foreach_lerp_(averaged, trained, 1 - share)

    def state(self) -> dict[str, object]:
        """Both sets of weights, for a checkpoint."""
        return {
            "trained": [network.state_dict() for network in self.networks],
            "averaged": [network.state_dict() for network in self.averaged],
        }

    def restore(self, state: dict[str, Iterable[dict[str, Tensor]]]) -> None:
        """Take both sets of weights from a checkpoint."""
        for networks, name in ((self.networks, "trained"), (self.averaged, "averaged")):
            for network, weights in zip(networks, state[name], strict=True):
                network.load_state_dict(weights)


def cached_latents(
    crew: Crew, vae: AutoencoderKL, count: int, folder: Path
) -> tuple[list[Scene], Tensor]:
    """Scenes of the training part and their scaled latents; each process draws its share."""
    rng = np.random.default_rng([crew.seed, PICTURES_STAGE])
    scenes = [random_scene(rng, unseen=False) for _ in range(count)]
    mine = folder / f"latents-{count}-{crew.rank}of{crew.size}.pt"
    if not mine.exists():
        pen = crew.rng(PICTURES_STAGE, 1)
        parts = []
        for start in range(crew.rank * 64, count, crew.size * 64):
            drawn = [draw(scene, pen) for scene in scenes[start : start + 64]]
            parts.append((encode(vae, pixels(drawn)) * SCALING).half())
        torch.save(parts, mine)
    crew.wait()
    latents: list[Tensor] = [torch.empty(0)] * -(-count // 64)
    for rank in range(crew.size):
        path = folder / f"latents-{count}-{rank}of{crew.size}.pt"
        latents[rank :: crew.size] = torch.load(path, weights_only=True)
    return scenes, torch.cat(latents).float()


def train_denoiser(
    crew: Crew, plan: DiffusionPlan, vae: AutoencoderKL, tokenizer: CLIPTokenizer, folder: Path
) -> Denoiser:
    """Train, or go on from the folder's checkpoint, until `plan.steps` are done."""
    scenes, latents = cached_latents(crew, vae, plan.pictures, folder)
    crew.say(f"latents {tuple(latents.shape)}  mean {latents.mean():.3f}  std {latents.std():.3f}")
    denoiser = Denoiser(tokenizer)
    muon = Muon(denoiser.networks, peak=plan.rate, peak_rest=2e-3)
    checkpoint, done = folder / "denoiser.pt", 0
    if checkpoint.exists():
        state = load(checkpoint)
        done = state["done"]
        denoiser.restore(state["weights"])
        muon.restore(state["muon"])
        crew.say(f"going on from step {done}")
    recent = 0.0
    for step in range(done, plan.steps):
        rng = crew.rng(STAGE, step)
        chosen = rng.integers(len(scenes), size=plan.batch)
        captions = [training_caption(scenes[i], rng) for i in chosen]
        batch = latents[torch.from_numpy(chosen)].contiguous(memory_format=torch.channels_last)
        loss = denoiser.loss(batch, captions, crew.generator(STAGE, step))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        crew.average_gradients(denoiser.parameters())
        muon.step(warm_hold_cool(step, plan.steps))
        denoiser.average(min(plan.averaging, (step + 1) / (step + 10)))
        recent = 0.95 * recent + 0.05 * loss.item() if step > done else loss.item()
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
            state = {"done": step + 1, "weights": denoiser.state(), "muon": muon.state()}
            crew.save(state, checkpoint)
            crew.say(f"denoiser {step + 1}/{plan.steps}  loss {recent:.4f}")
    return denoiser
