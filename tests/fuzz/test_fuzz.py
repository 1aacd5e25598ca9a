"""A short campaign, and the harness itself on trial."""

import random
import time
from dataclasses import replace

import pytest

from imagemill.scheduler_jobs.submit.planning.planned_rows import PlannedRow
from tests.fuzz.campaign import run, submitter
from tests.fuzz.inputs import FuzzedFile, fuzzed_file
from tests.fuzz.oracle import check_values
from tests.fuzz.writers import WRITERS

ROWS = 2000


def test_fuzzed_files_of_every_format_never_raise_and_never_hang() -> None:
    with submitter() as feed:
        result = run(rows=ROWS, seed=20, feed=feed)
    assert result.sound, "\n".join(result.findings)
    assert set(result.kinds) == set(WRITERS)
    assert result.good_rows > ROWS // 10, "fuzz that the reader refuses never reaches the planner"
    assert result.bad_rows > ROWS // 10


def test_a_seed_names_a_file_for_good() -> None:
    assert fuzzed_file(random.Random("1/5")) == fuzzed_file(random.Random("1/5"))


def test_a_traceback_is_found() -> None:
    def feed(file: FuzzedFile) -> tuple[int, int]:
        if file.kind == "parquet":
            raise KeyError("planted")
        return 1, 0

    result = run(rows=50, seed=1, feed=feed)
    assert result.tracebacks
    assert not result.sound
    assert "planted" in result.findings[0]


def test_a_value_that_is_dropped_is_found() -> None:
    file = next(
        file
        for file in (fuzzed_file(random.Random(f"3/{n}")) for n in range(1000))
        if file.kind == "jsonl" and file.rows and not file.format and not file.columns
    )
    looser = replace(
        file,
        rows={mark: {**row, "lost": "a value"} for mark, row in file.rows.items()},
        variants="off",
        grid=(),
    )
    with submitter() as feed:
        feed(file)
        with pytest.raises(AssertionError, match="'lost': 'a value' is in no extra"):
            feed(looser)


def test_most_rows_that_are_accepted_are_looked_through() -> None:
    known = [0]

    def counting(file: FuzzedFile, row: PlannedRow) -> bool:
        known[0] += check_values(file, row)
        return True

    with pytest.MonkeyPatch.context() as patch, submitter() as feed:
        patch.setattr("tests.fuzz.campaign.check_values", counting)
        result = run(rows=ROWS, seed=20, feed=feed)
    assert known[0] > result.good_rows // 5


def test_a_hang_is_found() -> None:
    def feed(file: FuzzedFile) -> tuple[int, int]:
        if file.kind in {"csv", "tsv"}:
            time.sleep(60)
        return 1, 0

    result = run(rows=10, seed=1, feed=feed, hang_seconds=0.05)
    assert result.hangs
    assert not result.sound
