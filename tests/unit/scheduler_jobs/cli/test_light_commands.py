"""What takes long to import is imported by the commands that need it, and by no others."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HEAVY = ("celery", "numpy", "openpyxl", "PIL", "pyarrow", "redis", "rich", "sqlglot")


def test_a_command_imports_only_what_it_needs() -> None:
    """The modules of `plan`, `submit`, `status`, `jobs` and `watch`: each 0.1 s is seen."""
    code = (
        "import sys\nfrom imagemill.scheduler_jobs.cli.commands.look import jobs, watch\n"
        "from imagemill.scheduler_jobs.cli.commands.render import manifests\n"
        f"print(sorted(set({HEAVY}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("commands", "unneeded"),
    [
        (["--help"], {"sqlalchemy", "pydantic", "tomllib"}),
        (
            ["--home {home} status", "--home {home} jobs"],
            {"pydantic", "sqlalchemy.dialects.postgresql"},
        ),
        (
            ["--home {home} plan {home}/one.csv"],
            {"pydantic_settings", "sqlalchemy.dialects.postgresql", "yaml"},
        ),
    ],
)
def test_a_command_that_ran_has_imported_only_what_it_needed(
    commands: list[str], unneeded: set[str], home: Path
) -> None:
    """Whole commands, on SQLite and with their settings in variables."""
    (home / "one.csv").write_text("prompt\na red circle\n")
    heavy = {*HEAVY, "alembic", "psycopg", "torch", *unneeded}
    code = (
        "import sys\nfrom imagemill.scheduler_jobs.cli import cli\n"
        f"for words in {[words.format(home=home) for words in commands]}:\n"
        "    try:\n        cli.main(words.split(), 'imagemill')\n"
        "    except SystemExit as ended:\n"
        f"        print('ended', ended.code, sorted({heavy} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ends = [line for line in done.stdout.splitlines() if line.startswith("ended ")]
    assert ends == ["ended 0 []"] * len(commands), done.stderr


def test_a_settings_file_is_read_whole_by_every_command(home: Path, tmp_path: Path) -> None:
    """Only where variables say all, `status` reads no more than the database's address."""
    file = tmp_path / "mine.toml"
    file.write_text("databse_url = 'misspelt'\n")
    line = [sys.executable, "-m", "imagemill", "--home", home, "--config", file, "status"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no setting databse_url" in done.stderr


def test_what_is_wrong_is_said_before_torch_is_imported(tmp_path: Path) -> None:
    """Torch takes seconds, and a misspelt name need not wait for it."""
    if find_spec("torch") is None:
        pytest.skip("the GPU side is not here")
    (tmp_path / "picture.png").write_bytes(b"")
    commands = [
        f"certify --output {tmp_path}/none/x.md",
        "certify --model nobody",
        f"roundtrip {tmp_path}/picture.png --output {tmp_path}/none/x.png",
        f"--home {tmp_path}/none reproduce --job latest",
    ]
    code = (
        "import sys\nfrom imagemill.scheduler_jobs.cli import cli\n"
        f"for words in {commands}:\n"
        "    try:\n        cli.main(words.split())\n"
        "    except SystemExit as ended:\n"
        "        print(words, '->', ended.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{words} -> 2 False" for words in commands], done.stderr
