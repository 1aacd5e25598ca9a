"""GenEval's own file, rendered and exported: its evaluator's walk over the folders finds it all."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from imagemill.db.database import Database
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.exports.export import ExportOptions
from imagemill.scheduler_jobs.exports.pictures import PictureForm
from imagemill.scheduler_jobs.exports.run import run_export
from imagemill.scheduler_jobs.exports.selection import Selection
from imagemill.scheduler_jobs.exports.target import FolderTarget
from tests.helpers.dataset import finished_job
from tests.helpers.mill import Mill

PROMPTS = Path(__file__).parents[2] / "data" / "prompts" / "geneval_prompts.jsonl"


def walked(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every picture with the metadata of its prompt, as GenEval finds them.

    Source: https://github.com/djghosh13/geneval, `main` of evaluation/evaluate_images.py: folders
    whose names are digits, one JSON document in each `metadata.jsonl`, files `\\d+\\.png`.
    """
    found = []
    for name in os.listdir(folder):  # noqa: PTH208 - as theirs, in no order
        if not (folder / name).is_dir() or not name.isdigit():
            continue
        with (folder / name / "metadata.jsonl").open() as file:
            metadata = json.load(file)
        for picture in os.listdir(folder / name / "samples"):  # noqa: PTH208 - as theirs
            path = folder / name / "samples" / picture
            if path.is_file() and re.match(r"\d+\.png", picture):
                found.append((str(path), metadata))
    return found


@pytest.mark.slow
def test_the_evaluators_walk_finds_every_picture(
    sqlite_database: Database, folder_storage: FolderStorage, tmp_path: Path
) -> None:
    whole = [json.loads(line) for line in PROMPTS.read_text().splitlines()]
    assert len(whole) == 553
    # Every fifth: all six kinds of prompts, and numbers of one, two and three digits.
    rows = whole[::5]
    assert {row["tag"] for row in rows} == {row["tag"] for row in whole}
    mill = Mill(sqlite_database)
    job = finished_job(mill, folder_storage, tmp_path, rows, samples=4)
    result = run_export(
        mill.database,
        folder_storage,
        FolderTarget(tmp_path / "out"),
        export_format="geneval",
        selection=Selection(jobs=[job]),
        options=ExportOptions(form=PictureForm()),
        progress=lambda *_: None,
    )
    found = walked(tmp_path / "out")
    assert len(found) == result.images == 4 * len(rows) == 444
    # What its evaluator reads of each: the picture, upright, and the prompt's metadata.
    by_prompt: dict[str, int] = {}
    for path, metadata in found:
        assert ImageOps.exif_transpose(Image.open(path)).size == (64, 64)
        assert metadata["tag"]
        by_prompt[json.dumps(metadata)] = by_prompt.get(json.dumps(metadata), 0) + 1
    assert by_prompt == {json.dumps(row): 4 for row in rows}
    by_number = {Path(path).parts[-3]: metadata for path, metadata in found}
    assert [by_number[f"{n:05}"] for n in range(len(rows))] == rows
