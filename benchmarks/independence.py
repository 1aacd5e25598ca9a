"""Whether pixels depend on anything but the row: one mixed manifest, rendered in many ways.

    python -m benchmarks.independence [--rows 200] [--family-rows 48] [--slots 2,4,8]
                                      [--output docs/independence.md]

The whole system (`imagemill run`, a folder of its own each time) renders the same rows in file
order, shuffled, with one worker child and with two, and while processes are killed. Per B the
hash of every row's pixels must be the same in all of them: exit code 1 where one is not. There are
two manifests: of `shapes64`, and of small models of three other families, which the slot engine
renders with and without a LoRA, from noise and from a picture. Writes the tables, and a JSON object
as the last line of standard output.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import psutil
import torch
from sqlalchemy import text

from benchmarks.mixed_manifests import (
    FAMILIES,
    SIZES,
    family_rows,
    mixed_rows,
    save_families,
)
from imagemill.db.database import Database
from imagemill.db.given_settings import DATABASE_FILE

_SETTINGS = {
    "IMAGEMILL_CONFIG": os.devnull,
    "IMAGEMILL_DEVICE": "cpu",
    "IMAGEMILL_LEASE_SECONDS": "15",
    "IMAGEMILL_HEARTBEAT_SECONDS": "1",
    "IMAGEMILL_RETRY_SECONDS": "0",
    "OMP_NUM_THREADS": "1",
}
_LOOK_SECONDS = 0.2
_RUN_SECONDS = 3600.0

Start = Callable[..., psutil.Popen]


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way of rendering the manifest.

    `kills` are of the rendering child, then of every process of the run, at even distances.
    """

    name: str
    shuffled: bool = False
    children: int = 1
    child_kills: int = 0
    run_kills: int = 0


WAYS = (
    Way(name="file order, one child"),
    Way(name="shuffled, one child", shuffled=True),
    Way(name="shuffled, two children", shuffled=True, children=2),
    Way(name="shuffled, killed", shuffled=True, child_kills=1, run_kills=1),
)
"""The first one is what the others are compared with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """What a row came out as: the hash of its raw pixels, and what rendered them."""

    pixels_sha256: str
    outcome: str
    environment: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of the table: a way with one B, compared with the first way with that B.

    `different` are the rows whose pixels are not the same, `environments` how many there were
    in all of it (one for each size, with and without guidance), `foreign` the rows that another
    environment rendered than in the first way.
    """

    slots: int
    way: str
    images: int
    kills: int
    environments: int
    foreign: int
    different: tuple[str, ...]
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--family-rows", type=int, default=48, help="of three other families")
    parser.add_argument("--slots", default="2,4,8", help="the Bs to try")
    parser.add_argument("--seed", type=int, default=1, help="of the manifest and its shuffles")
    parser.add_argument("--output", type=Path, help="where to write the tables")
    options = parser.parse_args(arguments)

    manifests = [mixed_rows(options.rows, seed=options.seed)]
    manifests.append(family_rows(options.family_rows, seed=options.seed))
    found: list[list[Line]] = [[], []]
    for rows, lines in zip(manifests, found, strict=True):
        for slots in [int(part) for part in options.slots.split(",")] if rows else ():
            for line in compare(rows, slots=slots, ways=WAYS, seed=options.seed):
                lines.append(line)
                print(_cells(line), file=sys.stderr, flush=True)
    if options.output is not None:
        options.output.write_text(report(found, manifests), encoding="utf-8")
    every = [*found[0], *found[1]]
    different = sum(len(line.different) for line in every)
    summary = {
        "rows": sum(map(len, manifests)),
        "different": different,
        "lines": [asdict(line) for line in every],
    }
    print(json.dumps(summary))
    return 1 if different else 0


def compare(
    rows: Sequence[Mapping[str, Any]],
    *,
    slots: int,
    ways: Sequence[Way],
    seed: int,
    start: Start = psutil.Popen,
) -> Iterator[Line]:
    """Render the rows in every way with one B; a line for each, the first way's first.

    `start` starts a command as `psutil.Popen` does.
    """
    expected: Mapping[str, Picture] = {}
    for way in ways:
        order = list(rows)
        if way.shuffled:
            random.Random(f"{seed} {slots} {way.name}").shuffle(order)
        home = Path(tempfile.mkdtemp(prefix="imagemill-independence-"))
        started = time.monotonic()
        save_families(home, {str(row["model"]) for row in rows if "model" in row})
        try:
            kills = _render(order, home, slots=slots, way=way, start=start)
            found = _pictures(home)
        finally:
            shutil.rmtree(home, ignore_errors=True)
        if set(found) != {f"id:{row['id']}" for row in rows}:
            raise RuntimeError(f"B {slots}, {way.name}: {len(found)} of {len(rows)} rows are done")
        expected = expected or found
        yield Line(
            slots=slots,
            way=way.name,
            images=len(found),
            kills=kills,
            environments=len({picture.environment for picture in found.values()}),
            foreign=sum(found[k].environment != expected[k].environment for k in found),
            different=tuple(
                key
                for key, picture in found.items()
                if (picture.pixels_sha256, picture.outcome)
                != (expected[key].pixels_sha256, expected[key].outcome)
            ),
            seconds=round(time.monotonic() - started, 1),
        )


def _render(
    rows: Sequence[Mapping[str, Any]], home: Path, *, slots: int, way: Way, start: Start
) -> int:
    """`imagemill run` until every row is done, killing as the way says; how often it did."""
    manifest = home / "mixed.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [sys.executable, "-m", "imagemill", "run", str(manifest)]
    command += ["--out", str(home / "out"), "--seed", "7", "--json"]
    own = {
        "IMAGEMILL_SLOTS": str(slots),
        "IMAGEMILL_CHILDREN": str(way.children),
        "IMAGEMILL_MODELS": str(home / "models.toml"),
        "IMAGEMILL_ADAPTERS_FOLDER": str(home / "adapters"),
        "IMAGEMILL_INPUTS_FOLDER": str(home / "inputs"),
    }
    planned = [_kill_child] * way.child_kills + [_kill_run] * way.run_kills
    kills = 0
    with (home / "log").open("wb") as log:
        while True:
            process = start(
                command,
                env={**os.environ, **_SETTINGS, **own},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                while kills < len(planned) and process.poll() is None:
                    time.sleep(_LOOK_SECONDS)
                    due = len(rows) * (kills + 1) // (len(planned) + 1)
                    if _done(home) >= due and planned[kills](process, home):
                        kills += 1
                code = process.wait(_RUN_SECONDS)
            finally:
                _kill_run(process, home)
            if code == 0:
                break
            if code != -signal.SIGKILL:
                raise RuntimeError(f"exit code {code}: {(home / 'log').read_text('utf-8')[-2000:]}")
    if kills < len(planned):
        raise RuntimeError(f"it was over after {kills} of {len(planned)} kills")
    return kills


def _kill_child(process: psutil.Popen, home: Path) -> bool:
    """SIGKILL for the newest rendering child; False if there is none just now."""
    with Database(_url(home)).reading() as session:
        query = text("SELECT pid FROM workers WHERE stopped_at IS NULL ORDER BY id DESC LIMIT 1")
        pid = session.scalar(query)
    for child in process.children(recursive=True):
        if child.pid == pid:
            child.kill()
            return True
    return False


def _kill_run(process: psutil.Popen, home: Path) -> bool:
    """SIGKILL for the run and every process that it started; False if it had ended."""
    del home
    if process.poll() is not None:
        return False
    family = [process, *process.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=30)
    return True


def _done(home: Path) -> int:
    if not (home / "out" / DATABASE_FILE).is_file():
        return 0
    # Its tables may just be being made.
    with suppress(Exception), Database(_url(home)).reading() as session:
        return int(session.scalar(text("SELECT count(*) FROM images WHERE state = 'done'")) or 0)
    return 0


def _pictures(home: Path) -> dict[str, Picture]:
    query = text(
        "SELECT row_key, pixels_sha256, outcome, environment FROM dataset_images "
        "WHERE state = 'done'"
    )
    with Database(_url(home)).reading() as session:
        return {
            row.row_key: Picture(
                pixels_sha256=row.pixels_sha256, outcome=row.outcome, environment=row.environment
            )
            for row in session.execute(query)
        }


def _url(home: Path) -> str:
    return f"sqlite:///{home / 'out' / DATABASE_FILE}"


def report(
    found: Sequence[Sequence[Line]], manifests: Sequence[Sequence[Mapping[str, Any]]]
) -> str:
    own, others = manifests
    head = [
        "# Independence of the batch",
        "",
        "The same row gives the same pixels whatever else is rendered, in whatever order, by how "
        "many processes, and however often they are killed. Here mixed manifests were rendered "
        "by the whole system (`imagemill run`, a new folder each time), and the SHA-256 of every "
        "row's raw pixels was compared with that of the run in file order with the same B.",
        "",
        f"fp32, CPU ({torch.backends.cpu.get_cpu_capability()}), one thread a child; torch "
        f"{torch.__version__}, diffusers {diffusers.__version__}. Killed: SIGKILL for the child "
        "that renders after a third of the images, SIGKILL for every process of the run after "
        "two thirds, and the same command again. Written by `make independence`, which ends with "
        "exit code 1 if one row differs.",
        "",
        f"{_about(own)}; sizes {' and '.join(SIZES)}; `shapes64`.",
        "",
    ]
    between = [
        "",
        "There is one environment for each shape of forward pass: two sizes, each with and "
        "without guidance. Another B is another environment, whose pixels may differ in the "
        "last bit: that is why B is recorded with every image, and `imagemill reproduce` uses "
        "the recorded one.",
        "",
        "## Other families",
        "",
        f"{_about(others)}; small models of {', '.join(f'`{name}`' for name in FAMILIES)} with "
        "random weights, which the slot engine renders, in one manifest. "
        f"{sum(bool(row['adapters']) for row in others)} rows use a LoRA, and "
        f"{sum('init_image' in row for row in others)} start from a picture, beside the others "
        "in the same passes where the weights are the same.",
        "",
    ]
    tail = [
        "",
        "Where a device can't keep this, its certificate says so, and recorded batches keep every "
        "picture reproducible together with its neighbours: "
        "[gpu.md](gpu.md#where-pixels-depend-on-the-batch).",
    ]
    tables = [[*_TABLE_HEAD, *map(_cells, lines)] for lines in found]
    return "\n".join([*head, *tables[0], *between, *tables[1], *tail]) + "\n"


_TABLE_HEAD = (
    "| B | way | images | kills | environments | rows of another environment | rows that differ |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)


def _about(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "Left out"
    steps = [row["steps"] for row in rows]
    scales = [row["guidance_scale"] for row in rows]
    samplers = ", ".join(f"`{name}`" for name in dict.fromkeys(row["sampler"] for row in rows))
    return (
        f"{len(rows)} rows: samplers {samplers}; {min(steps)} to {max(steps)} steps; guidance "
        f"{min(scales):g} to {max(scales):g}"
    )


def _cells(line: Line) -> str:
    values = (line.slots, line.way, line.images, line.kills, line.environments, line.foreign)
    cells = [str(value) for value in (*values, len(line.different))]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
