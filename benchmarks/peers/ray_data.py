"""P3: Ray Data's `map_batches`, where Ray is installed. It was not where this was written.

So nobody has run this yet. Ray has no wheel among this project's dependencies.
"""

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.peers.manifests import Request
from benchmarks.peers.pipeline import Script, lists


def is_installed() -> bool:
    """Whether Ray can be imported here."""
    return find_spec("ray") is not None


class _Renderer:
    """An actor of Ray: a batch is a column of lists, as a user groups them beforehand."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._script = Script()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        before = self._script.row_forwards
        for rows in batch["item"]:
            self._script.render(rows, self._folder)
        return {"row_forwards": [self._script.row_forwards - before]}


def render(
    rows: Sequence[Request], folder: Path, *, size: int, processes: int
) -> tuple[float, int]:
    """Render all rows with an actor for each core; the seconds, and the U-Net's rows."""
    import ray  # noqa: PLC0415  # only where it is installed

    started = time.monotonic()
    rendered = ray.data.from_items(list(lists(rows, size))).map_batches(
        _Renderer,
        fn_constructor_args=(str(folder),),
        batch_size=1,
        concurrency=processes,
        num_cpus=1,
    )
    row_forwards = sum(each["row_forwards"] for each in rendered.take_all())
    return time.monotonic() - started, row_forwards
