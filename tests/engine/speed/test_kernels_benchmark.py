"""`benchmarks/kernels.py`: every way renders the same images, and the defaults are 1."""

import json
from pathlib import Path

import pytest

from benchmarks import kernels
from imagemill.db.settings import Settings
from imagemill.worker.models.device import choose_algorithms


def test_ways_are_measured_beside_the_defaults(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("IMAGEMILL_DEVICE", "cpu")
    out = tmp_path / "kernels.json"
    short = ["--slots", "2", "--images", "1", "--rounds", "1", "--algorithms", "fixed"]
    try:
        assert kernels.main([*short, "--ways", "bf16,cudnn", "--out", str(out)]) == 0
    finally:
        choose_algorithms(settings)
    document = json.loads(out.read_text())
    default, bf16 = document["figures"]
    assert (default["way"], bf16["way"]) == ("default", "bf16")
    assert default["times_default"] == 1
    assert default["largest_difference"] == 0
    assert bf16["largest_difference"] > 0
    assert document["left_out"].keys() == {"cudnn"}
    assert "| `bf16` | fixed |" in capsys.readouterr().out


def test_an_unknown_way_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        kernels.main(["--ways", "faster"])
    assert "no such way: faster" in capsys.readouterr().err
