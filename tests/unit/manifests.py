"""Reading manifests in tests: from a file, or from bytes under a name."""

import json
from pathlib import Path
from typing import Any

from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.manifest import (
    Limits,
    ManifestRow,
    Problem,
    open_source,
    read_manifest,
)
from tests.helpers.places import DATA

PARTI_PROMPTS = DATA / "prompts" / "PartiPrompts.tsv"
GENEVAL = DATA / "prompts" / "geneval_prompts.jsonl"
DRAWBENCH = DATA / "prompts" / "drawbench_shaped.csv"

LIMITS = Limits.from_settings(Settings())


def jsonl(folder: Path, *rows: dict[str, object]) -> Path:
    """A manifest of JSON Lines."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, **options: Any) -> list[ManifestRow | Problem]:
    """Everything that a manifest yields."""
    with open_source(str(path), Settings()) as source:
        return list(read_manifest(source, **{"limits": LIMITS, **options}))


def good_rows(path: Path, **options: Any) -> list[ManifestRow]:
    """The rows of a manifest that has no problem."""
    rows: list[ManifestRow] = []
    for found in read(path, **options):
        assert isinstance(found, ManifestRow), str(found)
        rows.append(found)
    return rows


def problems(path: Path, **options: Any) -> list[str]:
    """A manifest's problems as they are printed, under the file's bare name."""
    found = [str(item) for item in read(path, **options) if isinstance(item, Problem)]
    return [line.replace(f"{path.parent}/", "", 1) for line in found]
