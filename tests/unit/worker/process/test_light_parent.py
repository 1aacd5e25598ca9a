"""A worker's parent only supervises: what costs seconds and gigabytes, its children load."""

import subprocess
import sys


def test_supervising_imports_nothing_heavy() -> None:
    code = (
        "import sys, imagemill.worker.app, imagemill.worker.shifts.shift\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'scipy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
