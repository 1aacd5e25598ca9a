"""Decompression bombs: little memory, no hang, one clear line."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from tests.helpers.places import ROOT
from tests.security.bombs import CONTAINERS, PARQUET, PICTURES

MEGABYTES = 300
"""A picture at the limit of 4096 x 4096 pixels takes 200 while it is turned and converted."""

PARQUET_MEGABYTES = 1600
"""The ceiling; without it, 800 bytes of Parquet took all there was."""

READABLE = {"PNG whose data goes on", "PNG of 100,000 chunks", "PNG with EXIF in a loop"}
READABLE |= {"JPEG with EXIF in a loop", "PNG with a long record"}
"""What is harmless for all that, as an input."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.bombs", str(tmp_path_factory.mktemp("bombs"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {found["name"]: found for found in map(json.loads, done.stdout.splitlines())}


def _harmless(found: Mapping[str, Any], *, megabytes: int) -> str:
    assert found["megabytes"] < megabytes, found
    said = str(found["said"])
    assert "RAISED" not in said
    assert "\n" not in said
    assert " at 0x" not in said
    return said


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_asks_for_much_is_refused_in_one_line(
    measured: Mapping[str, Mapping[str, Any]], name: str
) -> None:
    said = _harmless(measured[f"input: {name}"], megabytes=MEGABYTES)
    assert said.startswith("read: " if name in READABLE else "input_image: "), said
    _harmless(measured[f"check: {name}"], megabytes=MEGABYTES)
    said = _harmless(measured[f"record: {name}"], megabytes=MEGABYTES)
    assert said.startswith("record: "), said


def test_a_file_that_is_far_too_large_is_not_read(
    measured: Mapping[str, Mapping[str, Any]],
) -> None:
    said = _harmless(measured["record: a file of a terabyte"], megabytes=10)
    assert "1,099,511,627,776 bytes, where a picture of ours has at most" in said


@pytest.mark.parametrize("name", [*PARQUET, *CONTAINERS])
def test_a_bomb_in_a_container_is_one_problem_or_a_few(
    measured: Mapping[str, Mapping[str, Any]], name: str
) -> None:
    said = _harmless(measured[f"manifest: {name}"], megabytes=PARQUET_MEGABYTES)
    assert "more than" in said or "at most" in said
