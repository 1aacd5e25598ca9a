"""Feeding fuzzed files to the producer's path, and judging what comes out.

A file is judged by its outcome, never by its time: only one that takes longer than a limit far
above any honest time counts as a hang.
"""

import json
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image

from imagemill.db.errors import UsageError
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.manifest import open_source
from imagemill.scheduler_jobs.submit.planning.planned_rows import (
    PlannedRow,
    RefusedRow,
    RowKeys,
    chunks,
    plan_rows,
)
from imagemill.scheduler_jobs.submit.request import SubmissionRequest
from tests.fuzz.inputs import FuzzedFile, fuzzed_file
from tests.fuzz.oracle import check_values

HANG_SECONDS = 30.0
"""For a file of at most a few hundred kB, read in milliseconds."""

MOST_GROWTH_MIB = 300
_WARM_FILES = 100
_MOST_SPECS = 20

Feed = Callable[[FuzzedFile], tuple[int, int]]


class _Hang(BaseException):
    """Not an `Exception`, so that nobody who catches those hides it."""


@dataclass(kw_only=True)
class Result:
    """What a campaign met. `findings` are the first of what must not be."""

    seed: int
    files: int = 0
    good_rows: int = 0
    bad_rows: int = 0
    tracebacks: int = 0
    hangs: int = 0
    memory_growth_mib: int = 0
    slowest_seconds: float = 0.0
    kinds: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows that were read: planned, or refused with a problem."""
        return self.good_rows + self.bad_rows

    @property
    def sound(self) -> bool:
        """Whether every promise held."""
        return not self.tracebacks and not self.hangs and self.memory_growth_mib <= MOST_GROWTH_MIB


def run(*, rows: int, seed: int, feed: Feed, hang_seconds: float = HANG_SECONDS) -> Result:
    """Feed files until so many rows were read."""
    result = Result(seed=seed)
    memory = 0
    number = 0
    while result.rows < rows:
        file = fuzzed_file(random.Random(f"{seed}/{number}"))
        began = time.monotonic()
        try:
            with _limit(hang_seconds):
                good, bad = feed(file)
        except _Hang:
            result.hangs += 1
            _note(result, number, file, "hung")
        except Exception:
            result.tracebacks += 1
            _note(result, number, file, traceback.format_exc())
        else:
            result.good_rows += good
            result.bad_rows += bad
        number += 1
        result.slowest_seconds = max(result.slowest_seconds, time.monotonic() - began)
        result.kinds[file.kind] = result.kinds.get(file.kind, 0) + 1
        if number == _WARM_FILES:
            memory = _peak_mib()
        if result.tracebacks + result.hangs > 100:
            break
    result.files = number
    result.memory_growth_mib = _peak_mib() - memory if memory else 0
    return result


@contextmanager
def submitter() -> Iterator[Feed]:
    """What reads, expands and plans a file as `submit` does, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="imagemill-fuzz-") as scratch:
        folder = Path(scratch)
        inputs, wildcards = folder / "inputs", folder / "wildcards"
        for each in (inputs, wildcards, folder / "objects"):
            each.mkdir()
        Image.new("RGB", (64, 64)).save(inputs / "inside.png")
        (inputs / "link.png").symlink_to("/etc/passwd")
        (wildcards / "mood.txt").write_text("calm\nwild\n")
        settings = Settings.load(
            storage_url=str(folder / "objects"),
            inputs_folder=inputs,
            max_samples=50,
            max_prompt_bytes=4000,
            max_line_bytes=8000,
            max_rows=1000,
        )

        def feed(file: FuzzedFile) -> tuple[int, int]:
            return _submit(file, folder, settings, wildcards)

        yield feed


def _submit(file: FuzzedFile, folder: Path, settings: Settings, wildcards: Path) -> tuple[int, int]:
    """How many rows were good and how many bad; raises where a promise is broken."""
    path = folder / f"manifest{file.suffix}"
    if file.files:
        path = folder / "prompts"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for name, body in file.files.items():
            (path / name).write_bytes(body)
    else:
        path.write_bytes(file.body)
    request = SubmissionRequest(
        manifest=str(path),
        format=file.format,
        columns=file.columns,
        variants=file.variants,  # type: ignore[arg-type]  # one of them, drawn
        draws=3,
        grid=file.grid,
        wildcards=wildcards,
        skip_bad_rows=True,
    )
    good = bad = 0
    keys = RowKeys.after(Counter())
    try:
        with open_source(str(path), settings) as source:
            for chunk in chunks(plan_rows(request, source, settings)):
                for row in keys.checked(chunk, source.name):
                    if isinstance(row, RefusedRow):
                        bad += 1
                        for problem in row.problems:
                            assert str(problem).isprintable(), "a problem that can't be printed"
                    else:
                        good += 1
                        _check(row)
                        check_values(file, row)
    except UsageError:  # a grid or an option that is refused as a whole
        bad += 1
    assert good + bad, "a file says something, or what is wrong with it is said"
    return good, bad


def _check(row: PlannedRow) -> None:
    """What a database and a worker rely on, of a row that was accepted."""
    document: dict[str, Any] = dict(row.extras)
    prompts = "".join(cell.row.prompt + (cell.row.template or "") for cell in row.cells)
    stored = json.dumps(document, allow_nan=False) + row.verbatim + (row.key or "") + prompts
    assert "\0" not in stored
    stored.encode()
    for request in islice(row.requests(0), _MOST_SPECS):
        spec = request.spec()
        assert request.keys() == spec.request_keys()
        assert 0 <= spec.seed < 2**64
        assert spec.width * spec.height <= 4096 * 4096
        assert 1 <= spec.steps <= 1000


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise _Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _note(result: Result, number: int, file: FuzzedFile, what: str) -> None:
    if len(result.findings) < 10:
        result.findings.append(f"file {number} ({file.kind}{file.suffix}): {what}")


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
