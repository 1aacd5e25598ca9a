"""A worker's parent only supervises: what costs seconds and gigabytes, its children load."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["imagemill.worker.app", "imagemill.worker.shifts.shift"])
def test_supervising_imports_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'scipy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
