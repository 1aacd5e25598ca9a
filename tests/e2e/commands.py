"""Running commands as a person would, and reading what they left."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import text

from imagemill.db.database import Database
from tests.helpers.processes import forks


def imagemill(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    code: int = 0,
    seconds: float = 600,
    installed: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `imagemill …` and expect an exit code; its output is in the failure's message.

    `installed` runs the program's file, for tests of how it starts and what it imports.
    """
    words = list(map(str, arguments))
    run = forks.run_program if installed else forks.run
    done = run(words, environment=environment or {}, folder=folder or ".", seconds=seconds)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def last_json(done: subprocess.CompletedProcess[str]) -> Any:
    """The last line of standard output, as JSON."""
    return json.loads(done.stdout.strip().splitlines()[-1])


def dataset_images(url: str) -> list[dict[str, Any]]:
    """Every line of the view `dataset_images`, in the manifest's order."""
    database = Database(url)
    query = text("SELECT * FROM dataset_images ORDER BY job_id, row_number, sample_index")
    with database.reading() as session:
        rows = [dict(row) for row in session.execute(query).mappings()]
    database.close()
    return rows
