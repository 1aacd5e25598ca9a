"""What every test of whole commands has in common."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def one_child() -> Iterator[None]:
    """Let workers have one child unless a test says otherwise.

    A second child loads torch for seconds, on cores that other tests need. Several workers at once
    are the subject of `test_production.py` and `test_independence.py`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEMILL_CHILDREN", "1")
        yield
