"""What takes long to import is imported by the commands that need it, and by no others."""

import subprocess
import sys

import pytest

HEAVY = ("celery", "numpy", "openpyxl", "PIL", "pyarrow", "redis", "rich", "sqlglot")


@pytest.mark.parametrize("module", ["jobs", "manifests", "watch"])
def test_a_command_imports_only_what_it_needs(module: str) -> None:
    """The modules of `plan`, `submit`, `status`, `jobs` and `watch`: each 0.1 s is seen."""
    code = (
        f"import sys, imagemill.scheduler_jobs.cli.commands.{module}\n"
        f"print(sorted(set({HEAVY}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
