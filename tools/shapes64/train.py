"""Train the shipped model `shapes64` from nothing and write its diffusers folder.

    python -m tools.shapes64.train --work /tmp/shapes64 --out /tmp/shapes64/model

Stages: tokenizer, VAE, cached latents, text encoder + U-Net. `--work` keeps the checkpoints: the
same command goes on where a killed one stopped, and `--export` writes the best weights so far.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from imagemill.worker.scores.shapes64.captions import caption_words
from tools.shapes64.autoencoder import AutoencoderPlan, new_autoencoder, train_autoencoder
from tools.shapes64.command_line import new_parser
from tools.shapes64.crew import Crew, load, run_crew
from tools.shapes64.diffusion import Denoiser, DiffusionPlan, train_denoiser
from tools.shapes64.folder import write_folder
from tools.shapes64.tokenizer import write_tokenizer


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run: where it works, where the model goes, and both stages' plans."""

    work: Path
    out: Path
    seed: int
    processes: int
    autoencoder: AutoencoderPlan
    diffusion: DiffusionPlan


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = new_parser("train_shapes64", __doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to write the diffusers model to")
    add("--work", type=Path, help="folder for checkpoints (default: a temporary one)")
    add("--seed", type=int, default=64, help="seed of everything random (default 64)")
    add("--processes", type=int, default=2, help="single-thread processes (default 2)")
    add("--vae-steps", type=int, default=1500, help="steps of the VAE (default 1500)")
    add("--vae-batch", type=int, default=16, help="pictures a VAE step, all processes (16)")
    add("--steps", type=int, default=5000, help="steps of the denoiser (default 5000)")
    add("--batch", type=int, default=64, help="pictures a denoiser step, all processes (64)")
    add("--pictures", type=int, default=24576, help="drawn pictures to learn from (24576)")
    add("--save-every", type=int, default=100, help="steps between checkpoints (default 100)")
    add("--export", action="store_true", help="train nothing: write --work's weights to --out")
    add("--smoke", action="store_true", help="a few seconds of everything; the model is useless")
    return parser


def plan(given: argparse.Namespace, work: Path) -> Training:
    """The run that the command line asks for."""
    crew = given.processes
    training = Training(
        work=work,
        out=given.out,
        seed=given.seed,
        processes=crew,
        autoencoder=AutoencoderPlan(steps=given.vae_steps, batch=given.vae_batch // crew),
        diffusion=DiffusionPlan(
            steps=given.steps,
            batch=given.batch // crew,
            pictures=given.pictures,
            save_every=given.save_every,
        ),
    )
    if given.smoke:
        return replace(
            training,
            processes=1,
            autoencoder=AutoencoderPlan(steps=2, batch=2),
            diffusion=DiffusionPlan(steps=2, batch=4, pictures=64),
        )
    return training


def trained_autoencoder(crew: Crew, training: Training) -> AutoencoderKL:
    """The VAE, trained now or before."""
    checkpoint = training.work / "vae.pt"
    if not checkpoint.exists():
        vae = train_autoencoder(crew, training.autoencoder)
        crew.save(vae.state_dict(), checkpoint)
        crew.wait()
    vae = new_autoencoder()
    vae.load_state_dict(load(checkpoint))
    return vae.eval()


def tokenizer_of(training: Training, rank: int = 0) -> CLIPTokenizer:
    """The tokenizer of this run; it depends on the caption words alone."""
    return write_tokenizer(training.work / f"tokenizer-{rank}", caption_words())


def train(crew: Crew, training: Training) -> None:
    """Every stage, in one process of the crew; the first one writes the model."""
    tokenizer = tokenizer_of(training, crew.rank)
    vae = trained_autoencoder(crew, training)
    denoiser = train_denoiser(crew, training.diffusion, vae, tokenizer, training.work)
    if crew.rank == 0:
        write_folder(training.out, vae, denoiser)
    crew.say(f"wrote {training.out}")


def export(training: Training) -> None:
    """Write the averaged weights of the work folder's checkpoint."""
    state = load(training.work / "denoiser.pt")
    denoiser = Denoiser(tokenizer_of(training))
    denoiser.restore(state["weights"])
    vae = new_autoencoder()
    vae.load_state_dict(load(training.work / "vae.pt"))
    write_folder(training.out, vae.eval(), denoiser)
    print(f"wrote {training.out} as of step {state['done']}")


def main(words: list[str] | None = None) -> None:
    """Train or export, as the command line says."""
    given = arguments().parse_args(words)
    with tempfile.TemporaryDirectory(prefix="shapes64-") as spare:
        work = given.work or Path(spare)
        work.mkdir(parents=True, exist_ok=True)
        training = plan(given, work)
        if given.export:
            export(training)
        else:
            run_crew(train, training, folder=work, size=training.processes, seed=training.seed)


if __name__ == "__main__":
    main()
