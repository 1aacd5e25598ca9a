"""A short campaign, and the harness itself on trial."""

import random
import time

from tests.fuzz.campaign import run, submitter
from tests.fuzz.inputs import WRITERS, FuzzedFile, fuzzed_file

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


def test_a_hang_is_found() -> None:
    def feed(file: FuzzedFile) -> tuple[int, int]:
        if file.kind == "csv":
            time.sleep(60)
        return 1, 0

    result = run(rows=10, seed=1, feed=feed, hang_seconds=0.05)
    assert result.hangs
    assert not result.sound
