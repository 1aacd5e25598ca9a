"""Every broken manifest of `tests/data/bad` is answered with exactly its expected lines."""

import tomllib
from typing import Any

import pytest

from imagemill.scheduler_jobs.manifest import Limits, Problem
from tests.unit.manifests import DATA, problems, read

BAD = DATA / "bad"
TABLE: dict[str, Any] = tomllib.loads((BAD / "expected.toml").read_text(encoding="utf-8"))
BAD_LIMITS = Limits(**TABLE.pop("limits"))


def test_every_broken_manifest_has_its_expected_lines() -> None:
    files = {path.name for path in BAD.iterdir()} - {"expected.toml", "README.md"}
    assert set(TABLE) == files
    assert len(files) >= 30


@pytest.mark.parametrize("name", TABLE)
def test_a_broken_manifest_is_answered_with_its_lines(name: str) -> None:
    expected = TABLE[name]
    found = problems(BAD / name, limits=BAD_LIMITS)
    if "begins" in expected:
        assert len(found) == len(expected["begins"])
        assert all(map(str.startswith, found, expected["begins"]))
    else:
        assert found == expected["lines"]
    rows = [item for item in read(BAD / name, limits=BAD_LIMITS) if not isinstance(item, Problem)]
    assert len(rows) == expected["rows"]


@pytest.mark.parametrize("name", TABLE)
def test_every_answer_is_one_printable_line(name: str) -> None:
    for line in problems(BAD / name, limits=BAD_LIMITS):
        assert line.isprintable()
        assert line.startswith(name)
