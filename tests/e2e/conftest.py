"""What every test of whole commands has in common."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="module")
def one_child() -> Iterator[None]:
    """Let workers have one child unless a test says otherwise, and each one thread.

    A second child loads torch for seconds, on cores that other tests need. Several workers at once
    are the subject of `test_production.py` and `test_independence.py`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEMILL_CHILDREN", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may pass through: as root, PostgreSQL may run as `nobody`."""
    with tempfile.TemporaryDirectory(prefix="imagemill-stack-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)
