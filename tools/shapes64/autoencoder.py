"""The KL VAE: 64×64 pictures to 4 channels of 16×16 and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from imagemill.worker.scores.shapes64.drawing import SIDE, draw, random_scene
from tools.shapes64.crew import Crew
from tools.shapes64.muon import Muon, warm_hold_cool

SCALING = 0.18215
"""Stable Diffusion's scaling factor: after folding, latents × SCALING have mean 0, deviation 1."""

CERTAIN = 0.03
"""How far the encoder's latents spread, after scaling, in a channel that tells something."""

STAGE = 1


@dataclass(frozen=True, kw_only=True)
class AutoencoderPlan:
    """How long and how fast the VAE trains; `batch` is per process."""

    steps: int
    batch: int
    rate: float = 0.02


def new_autoencoder() -> AutoencoderKL:
    """The untrained VAE. One norm group: with 8, training stalled."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 48),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        mid_block_add_attention=False,
        sample_size=SIDE,
        scaling_factor=SCALING,
    )


def pixels(pictures: list[np.ndarray]) -> Tensor:
    """Pictures (64, 64, 3) bytes as (n, 3, 64, 64) from -1 to 1."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return (stacked.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _loss(vae: AutoencoderKL, batch: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        posterior = vae.encode(batch).latent_dist
        mean, spread = posterior.mean.float(), posterior.std.float()
        latents = mean + spread * torch.randn(mean.shape, generator=noise)
        drawn = vae.decode(latents).sample.float()
    squared = functional.mse_loss(drawn, batch)
    divergence = 0.5 * (mean**2 + spread**2 - 1 - 2 * spread.log()).mean()
    return functional.l1_loss(drawn, batch) + 0.5 * squared + 2e-4 * divergence, squared


def train_autoencoder(crew: Crew, plan: AutoencoderPlan) -> AutoencoderKL:
    """A VAE trained on freshly drawn scenes of the training part, its latents' scale folded in."""
    vae = new_autoencoder().to(memory_format=torch.channels_last).train()
    muon = Muon([vae], peak=plan.rate, peak_rest=2e-3)
    for step in range(plan.steps):
        rng = crew.rng(STAGE, step)
        batch = pixels([draw(random_scene(rng, unseen=False), rng) for _ in range(plan.batch)])
        loss, squared = _loss(vae, batch, crew.generator(STAGE, step))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        crew.average_gradients(vae.parameters())
        muon.step(warm_hold_cool(step, plan.steps))
        if step % 50 == 0 or step == plan.steps - 1:
            decibels = -10 * np.log10(squared.item() / 4)
            crew.say(f"vae {step}/{plan.steps}  loss {loss.item():.4f}  {decibels:.1f} dB")
    vae.eval()
    fold_scale(vae, encode(vae, sample_pictures(crew, 512)))
    return vae


def sample_pictures(crew: Crew, count: int) -> Tensor:
    """Pictures of training scenes, the same in every process."""
    rng = np.random.default_rng([crew.seed, STAGE, 2**20])
    return pixels([draw(random_scene(rng, unseen=False), rng) for _ in range(count)])


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """The means of the latents, unscaled: (n, 4, 16, 16)."""
    parts = [vae.encode(part).latent_dist.mean for part in torch.split(pictures, 32)]
    return torch.cat(parts).contiguous()


@torch.no_grad()
def fold_scale(vae: AutoencoderKL, latents: Tensor) -> None:
    """Change the quant convolutions so that latents × SCALING have mean 0 and deviation 1.

    With raw latents z of mean m and deviation s, the new ones are (z - m) / (s · SCALING): so the
    one number in the config is right for every channel, and pictures stay the same.
    """
    mean = latents.mean(dim=(0, 2, 3))
    unit = latents.std(dim=(0, 2, 3)) * SCALING
    into, out = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    into.weight[:channels] /= unit.view(-1, 1, 1, 1)
    into.bias[:channels] = (into.bias[:channels] - mean) / unit
    into.bias[channels:] -= 2 * unit.log()
    # A channel that the decoder has no use for keeps its prior's spread, which was scaled up with
    # it just now: sampled, it would drown the others, and no variation of a picture would work.
    ignored = into.bias[channels:] > -2 * math.log(SCALING)
    into.weight[channels:][ignored] = 0
    into.bias[channels:][ignored] = 2 * math.log(CERTAIN / SCALING)
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= unit.view(1, -1, 1, 1)
