"""The processes that train together: one thread each, gradients averaged over gloo."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn


class Crew:
    """One process of the crew: its rank, its random numbers, and what it shares."""

    def __init__(self, *, rank: int, size: int, seed: int) -> None:
        self.rank, self.size, self.seed = rank, size, seed
        self.began = time.monotonic()

    def rng(self, stage: int, step: int) -> np.random.Generator:
        """Random numbers that depend on seed, stage, rank and step only: a resumed run is equal."""
        return np.random.default_rng([self.seed, stage, self.rank, step])

    def generator(self, stage: int, step: int) -> torch.Generator:
        """The same for torch."""
        return torch.Generator().manual_seed(int(self.rng(stage, step).integers(2**62)))

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the crew."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.size
        pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view(gradient.shape))

    def wait(self) -> None:
        """Until every process of the crew is here."""
        if self.size > 1:
            distributed.barrier()

    def say(self, text: str) -> None:
        """Print a line with the seconds since the start, from the first process only."""
        if self.rank == 0:
            print(f"{time.monotonic() - self.began:7.0f} s  {text}", flush=True)

    def save(self, state: dict[str, Any], path: Path) -> None:
        """Write a checkpoint from the first process; a kill leaves the old one or the new one."""
        if self.rank == 0:
            fresh = path.with_suffix(".fresh")
            torch.save(state, fresh)
            fresh.replace(path)


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's state: tensors and plain values only."""
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return state


@dataclass(frozen=True, kw_only=True)
class Muster:
    """What every process of a crew is told: the work, who they are, and where they meet."""

    work: Callable[[Crew, Any], None]
    options: Any
    size: int
    seed: int
    meeting: Path


def _member(rank: int, muster: Muster) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(muster.seed)
    if muster.size > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        distributed.init_process_group(
            "gloo", init_method=f"file://{muster.meeting}", rank=rank, world_size=muster.size
        )
    muster.work(Crew(rank=rank, size=muster.size, seed=muster.seed), muster.options)
    if muster.size > 1:
        distributed.destroy_process_group()


def run_crew(
    work: Callable[[Crew, Any], None], options: Any, *, folder: Path, size: int, seed: int
) -> None:
    """Call `work(crew, options)` in `size` processes, or right here if that is one."""
    meeting = (folder / f"meeting-{os.getpid()}").resolve()
    muster = Muster(work=work, options=options, size=size, seed=seed, meeting=meeting)
    if size == 1:
        threads = torch.get_num_threads()
        try:
            _member(0, muster)
        finally:
            torch.set_num_threads(threads)
        return
    try:
        spawn(_member, args=(muster,), nprocs=size)  # type: ignore[no-untyped-call]  # torch's
    finally:
        meeting.unlink(missing_ok=True)
