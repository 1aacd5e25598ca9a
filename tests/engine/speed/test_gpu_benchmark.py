"""`benchmarks/gpu`: on a CPU, with a model of a few channels, from the first part to the table."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import measured
from benchmarks.gpu.models import RECIPES
from benchmarks.gpu.parts import ALGORITHMS, all_parts
from benchmarks.gpu.table import write


def test_every_model_has_every_part_and_names_are_unique() -> None:
    names = [part.name for part in all_parts()]
    assert len(set(names)) == len(names) == len(ALGORITHMS) * (1 + 2 * len(RECIPES))
    assert {"ceiling-fixed", "sd15-eager-free", "flux-compiled-larger"} <= set(names)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure where torch is imported: a process of its own takes seconds of a core for it."""

    def run(words: list[str], *, check: bool) -> SimpleNamespace:
        assert words[:3] == [sys.executable, "-m", measured.__name__]
        return SimpleNamespace(returncode=measured.main(words[3:]))

    monkeypatch.setattr(gpu, "subprocess", SimpleNamespace(run=run))


@pytest.mark.usefixtures("in_this_process")
def test_a_part_is_measured_once_and_taken_up_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--device", "cpu", "--tiny", "--slots", "2", "--only", "flux-eager-fixed"]
    words += ["--results", str(tmp_path / "results"), "--weights", str(tmp_path / "weights")]
    assert gpu.main(words) == 0
    assert "flux-eager-fixed: done\n" in capfd.readouterr().out
    assert gpu.main(words) == 0
    assert "flux-eager-fixed: done before" in capfd.readouterr().out

    folder = tmp_path / "results" / "gpu-cpu-tiny"
    part = json.loads((folder / "all.json").read_text())["flux-eager-fixed"]
    assert [(row["way"], row["slots"]) for row in part["rows"]] == [
        ("p0", 1),
        ("engine", 2),
        ("p1", 2),
        ("bare loop", 2),
    ]
    assert all(row["images_a_second"] > 0 for row in part["rows"])
    assert part["tflop_an_image"] > 0
    assert part["certificate"]["holds"]
    assert part["left_out"] == []
    assert "| flux-eager-fixed | engine | 2 |" in (folder / "table.md").read_text()


def _part(speed: float, *, holds: bool = True) -> str:
    row = {"way": "engine", "slots": 8, "images_a_second": speed}
    return json.dumps(
        {
            "device": "a card",
            "precision": "fp16",
            "tflop_an_image": 1.0,
            "rows": [row],
            "left_out": ["bare loop, B = 32: out of memory"],
            "certificate": {"holds": holds, "promise": "independence"},
        }
    )


@pytest.mark.parametrize(
    ("speed", "holds", "advice"),
    [
        (10.1, True, "1.01 times as fast at best. Keep the default."),
        (11.0, True, 'set `cublas_workspace = ":4096:8"`'),
        (11.0, False, "keep the default where bits count"),
    ],
)
def test_the_table_advises_on_workspaces(
    tmp_path: Path, speed: float, holds: bool, advice: str
) -> None:
    (tmp_path / "sd15-eager-fixed.json").write_text(_part(10.0))
    (tmp_path / "sd15-eager-larger.json").write_text(_part(speed, holds=holds))
    ceiling = {"device": "a card", "ceiling": {"fp16": {"4096": 40.0, "8192": 50.0}}}
    (tmp_path / "ceiling-fixed.json").write_text(json.dumps(ceiling))
    text = write(tmp_path)
    assert advice in text
    assert "| sd15-eager-fixed | engine | 8 | 10.00 |  | 10.00 | 20 % |  |" in text
    assert "left out: bare loop, B = 32: out of memory" in text


def test_no_time_left_begins_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--device", "cpu", "--tiny", "--only", "ceiling-free", "--minutes", "0.1"]
    assert gpu.main([*words, "--results", str(tmp_path)]) == 0
    assert "ceiling-free: no time left" in capsys.readouterr().out


def test_unknown_names_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--models", "sd3"], "no model sd3"),
        (["--only", "sd15-fast"], "no part sd15-fast"),
    ):
        with pytest.raises(SystemExit):
            gpu.main(words)
        assert said in capsys.readouterr().err
