"""Pixels depend on the row alone: a short run of `benchmarks/independence.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from benchmarks.independence import Way, compare
from benchmarks.mixed_manifests import FAMILIES, SAMPLERS, family_rows, mixed_rows
from tests.helpers.processes import forks

WAYS = (
    Way(name="file order"),
    Way(name="shuffled and killed", shuffled=True, child_kills=2),
)
SLOTS = 4
"""`make independence` tries other Bs."""


class ForkedRun(psutil.Process):
    """`python -m imagemill run …` as a fork; begun like a `psutil.Popen`."""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], stdout: IO[bytes], stderr: int
    ) -> None:
        module, *words = command[2:]
        assert command[1] == "-m"
        log = Path(stdout.name)
        self._fork = forks.start(module, *words, environment=env, output=log)
        super().__init__(self._fork.pid)

    def poll(self) -> int | None:
        return self._fork.poll()

    def wait(self, timeout: float | None = None) -> Any:
        return self._fork.wait(timeout)


def test_no_pixel_depends_on_neighbours_order_or_a_kill():
    """Rows of the guided and of the slot engine, in one manifest; a kill while each renders."""
    # Without unguided rows there are half as many groups, each of which has to be certified.
    own = mixed_rows(16, seed=SLOTS, steps=(4, 10), guidance=(2.0, 5.0, 9.0))
    others = [row | {"id": f"other-{row['id']}"} for row in family_rows(12, seed=1)]
    assert {row["model"] for row in others} == set(FAMILIES)
    first, second = compare([*own, *others], slots=SLOTS, ways=WAYS, seed=1, start=ForkedRun)
    assert first.images == second.images == 28
    assert first.environments == second.environments > len(FAMILIES) + 1
    assert second.kills == 2
    assert second.foreign == 0
    assert second.different == ()


def test_the_manifest_is_mixed():
    rows = mixed_rows(200, seed=1)
    assert {row["sampler"] for row in rows} == set(SAMPLERS)
    assert len({row["id"] for row in rows}) == 200
    assert min(row["steps"] for row in rows) == 8
    assert max(row["steps"] for row in rows) > 30
    assert {row["size"] for row in rows} == {"64x64", "96x64"}
    assert {1.0, 9.0} <= {row["guidance_scale"] for row in rows}
