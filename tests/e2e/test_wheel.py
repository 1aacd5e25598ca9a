"""What `pip install imagemill` puts into site-packages: one name, and everything below it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.helpers.places import ROOT


def test_a_wheel_holds_one_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    unwanted = shutil.ignore_patterns("__pycache__")
    for folder in ("imagemill", "db", "scheduler_jobs", "worker"):
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=unwanted)
    shutil.copytree(ROOT / "deploy" / "postgres", source / "deploy" / "postgres")
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "-w", tmp_path, source], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    release = "-".join(wheel.name.split("-")[:2])
    assert {name.partition("/")[0] for name in names} == {"imagemill", f"{release}.dist-info"}
    needed = {
        f"imagemill/{file.relative_to(source)}"
        for folder in ("db", "scheduler_jobs", "worker")
        for file in (source / folder).rglob("*")
        if file.suffix in {".py", ".mako"} or {"shapes64", "assets"} & set(file.parts)
        if file.is_file()
    }
    assert "imagemill/db/migrations/script.py.mako" in needed
    assert any(name.startswith("imagemill/worker/shapes64/") for name in needed)
    assert "imagemill/scheduler_jobs/pages/assets/page.css" in needed
    # `db/roles` links to `deploy/postgres`, and `imagemill up` needs both files.
    needed |= {f"imagemill/db/roles/{name}" for name in ("roles.sh", "grants.sql")}
    assert needed <= names
