"""The parts of the benchmark: each is a process of its own, with its own algorithms.

cuBLAS reads its workspaces once in a process, so ways of choosing algorithms can't share one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.models import RECIPES

ALGORITHMS: Mapping[str, Mapping[str, Any]] = {
    "fixed": {},
    "larger": {"cublas_workspace": ":4096:8"},
    "free": {"reproducible": False},
}
"""Settings by name: the defaults, cuBLAS's larger workspaces, and `reproducible = false`."""

CEILING = "ceiling"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A model (or the ceiling of matrix products), eager or compiled, with some algorithms."""

    model: str
    compiled: bool = False
    algorithms: str = "fixed"

    @property
    def name(self) -> str:
        """The part's name, which is also its file's."""
        if self.model == CEILING:
            return f"{CEILING}-{self.algorithms}"
        return f"{self.model}-{'compiled' if self.compiled else 'eager'}-{self.algorithms}"


def all_parts(models: Sequence[str] = tuple(RECIPES)) -> list[Part]:
    """Every part of these models; what says most comes first."""
    parts = [Part(model=CEILING, algorithms=algorithms) for algorithms in ALGORITHMS]
    for model in models:
        parts += [
            Part(model=model, compiled=compiled, algorithms=algorithms)
            for compiled in (False, True)
            for algorithms in ALGORITHMS
        ]
    return parts


def part_named(name: str) -> Part:
    """The part of this name. Raises `KeyError`."""
    return {part.name: part for part in all_parts()}[name]
