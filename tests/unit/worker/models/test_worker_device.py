"""`python -m imagemill.worker.models.device`, which `imagemill doctor` asks."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow  # imports torch in a process of its own
@pytest.mark.parametrize(
    ("device", "code", "said"), [("cpu", 0, "cpu, "), ("nonsense", 1, "IMAGEMILL_DEVICE")]
)
def test_it_answers_in_one_line(device, code, said):
    done = subprocess.run(
        [sys.executable, "-m", "imagemill.worker.models.device"],
        env=os.environ | {"IMAGEMILL_DEVICE": device},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    (line,) = (done.stdout + done.stderr).splitlines()
    assert said in line
