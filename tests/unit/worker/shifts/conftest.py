"""The bench of the tests of a shift's work on a group."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.mill import Mill
from tests.unit.worker.shifts.bench import Bench


@pytest.fixture
def bench(mill: Mill, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(mill, tmp_path / "store")
    with bench.recorder:
        yield bench
        bench.recorder.wait()
    assert mill.audit() == []
