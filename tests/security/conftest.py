"""A home with a database, work in it, and a worker beside it, as the other tests have them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.mill import Mill
from tests.helpers.workshop import Workshop
from tests.unit.conftest import at_home, home, imagemill, mill

__all__ = ["at_home", "home", "imagemill", "mill"]

BIDI_AND_CONTROLS = "a cat\x1b[31m\x1b]0;owned\x07\r\u202egnp.exe\u2066\u200f\x08\x85\u2028end"
"""What a terminal must not get: escapes, a title, a return, overrides, isolates, separators."""


@pytest.fixture
def workshop(mill: Mill, tmp_path: Path) -> Iterator[Workshop]:
    """A worker in this process, without torch. Whatever was attacked, no promise is broken."""
    workshop = Workshop(mill, tmp_path / "store")
    yield workshop
    assert mill.audit() == []
