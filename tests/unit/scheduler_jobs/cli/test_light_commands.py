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
    ("words", "unneeded"),
    [
        ("--help", {"sqlalchemy", "pydantic", "tomllib"}),
        ("--home {home} status", {"pydantic", "sqlalchemy.dialects.postgresql"}),
        ("--home {home} jobs", {"pydantic", "sqlalchemy.dialects.postgresql"}),
        (
            "--home {home} plan {home}/one.csv",
            {"pydantic_settings", "sqlalchemy.dialects.postgresql", "yaml"},
        ),
    ],
)
def test_a_command_that_ran_has_imported_only_what_it_needed(
    words: str, unneeded: set[str], home: Path
) -> None:
    """The whole command, on SQLite and with its settings in variables."""
    (home / "one.csv").write_text("prompt\na red circle\n")
    heavy = {*HEAVY, "alembic", "psycopg", "torch", *unneeded}
    code = (
        "import sys\nfrom imagemill.scheduler_jobs.cli import cli\n"
        f"try:\n    cli.main({words.format(home=home).split()}, 'imagemill')\n"
        f"except SystemExit as ended:\n    print(ended.code, sorted({heavy} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_a_settings_file_is_read_whole_by_every_command(home: Path, tmp_path: Path) -> None:
    """Only where variables say all, `status` reads no more than the database's address."""
    file = tmp_path / "mine.toml"
    file.write_text("databse_url = 'misspelt'\n")
    line = [sys.executable, "-m", "imagemill", "--home", home, "--config", file, "status"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no setting databse_url" in done.stderr


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
