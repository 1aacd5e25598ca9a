"""Children are forks where no GPU can be met, and programs of their own elsewhere."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from imagemill.db.settings import Settings
from imagemill.worker.process import start_method as module
from imagemill.worker.process.start_method import FORK, SPAWN, start_method


@pytest.mark.parametrize(
    ("device", "torch", "driver", "expected"),
    [
        ("auto", "2.13.0+cpu", True, FORK),
        ("auto", "2.13.0+cu130", True, SPAWN),
        ("auto", "2.13.0", True, SPAWN),
        ("auto", "2.13.0", False, FORK),
        ("auto", None, True, SPAWN),
        ("cpu", "2.13.0+cu130", True, FORK),
        ("cuda:1", "2.13.0+cpu", False, SPAWN),
    ],
)
def test_a_process_that_may_meet_a_gpu_is_never_forked(
    device: str,
    torch: str | None,
    driver: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def version(name: str) -> str:
        assert name == "torch"
        if torch is None:
            raise PackageNotFoundError(name)
        return torch

    if driver:
        (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(module, "version", version)
    monkeypatch.setattr(module, "_DRIVERS", (str(tmp_path / "nvidiactl"),))
    assert start_method(Settings.load(device=device)) == expected


def test_the_metrics_folder_is_named_before_the_library_looks_for_it() -> None:
    """A fork has the library as its parent has imported it."""
    code = "import sys, imagemill.worker.cli.worker; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_warm_worker_without_orders_ends() -> None:
    reading, writing = os.pipe()
    # Where it would spawn, it imports nothing: the test is not about torch.
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "imagemill.worker.cli.warm", str(reading)],
        env=os.environ | {"IMAGEMILL_DEVICE": "cuda"},
        pass_fds=[reading],
    ) as process:
        os.close(reading)
        os.close(writing)
        assert process.wait(240) == 0
