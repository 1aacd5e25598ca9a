"""Which build of torch `make` installs."""

from pathlib import Path

import pytest

from tools import torch_build


@pytest.mark.parametrize(
    ("gpu", "answers", "options", "says"),
    [
        (True, True, [], "CUDA build"),
        (False, True, ["--extra-index-url", torch_build.CPU_INDEX], "CPU build"),
        (False, False, [], "pip's own index"),
    ],
)
def test_the_build_follows_the_machine(gpu, answers, options, says) -> None:
    found, why = torch_build.choice(gpu=gpu, cpu_index=answers)
    assert found == options
    assert says in why
    assert "Linux" in why


def test_a_driver_or_its_program_is_a_gpu(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert torch_build.has_gpu(tmp_path)
    assert not torch_build.has_gpu(tmp_path / "none")
    (tmp_path / "nvidia-smi").touch(0o755)
    assert torch_build.has_gpu(tmp_path / "none")


def test_an_index_that_does_not_answer_is_not_reachable() -> None:
    assert not torch_build.reachable("http://127.0.0.1:9")
