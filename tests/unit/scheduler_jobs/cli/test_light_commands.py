"""What takes long to import is imported by the commands that need it, and by no others."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("celery", "numpy", "openpyxl", "PIL", "pyarrow", "redis", "rich", "sqlglot")


def test_a_command_imports_only_what_it_needs() -> None:
    """The modules of `plan`, `submit`, `status`, `jobs` and `watch`: each 0.1 s is seen."""
    code = (
        "import sys\nfrom imagemill.scheduler_jobs.cli.commands import jobs, manifests, watch\n"
        f"print(sorted(set({HEAVY}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "words",
    [
        "certify --output {here}/none/x.md",
        "certify --model nobody",
        "roundtrip {here}/picture.png --output {here}/none/x.png",
        "--home {here}/none reproduce --job latest",
    ],
)
def test_what_is_wrong_is_said_before_torch_is_imported(words: str, tmp_path: Path) -> None:
    """Torch takes seconds, and a misspelt name need not wait for it."""
    pytest.importorskip("torch")
    (tmp_path / "picture.png").write_bytes(b"")
    code = (
        "import sys\nfrom imagemill.scheduler_jobs.cli import cli\n"
        f"try:\n    cli.main({words.format(here=tmp_path).split()})\n"
        "except SystemExit as ended:\n    print(ended.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 False", done.stderr
