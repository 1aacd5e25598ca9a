"""Exports in tests: one call, with the defaults of the command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.exports.export import ExportOptions
from imagemill.scheduler_jobs.exports.pictures import PictureForm
from imagemill.scheduler_jobs.exports.run import ExportResult, run_export
from imagemill.scheduler_jobs.exports.selection import Selection
from imagemill.scheduler_jobs.exports.target import FolderTarget, Target
from tests.helpers.mill import Mill


def export(
    mill: Mill,
    storage: Storage,
    target: Target | Path,
    export_format: str,
    jobs: list[int],
    *,
    progress: Callable[[int, int], None] = lambda *_: None,
    form: PictureForm | None = None,
    **fields: Any,
) -> ExportResult:
    """Export jobs; `fields` are those of `Selection` and `ExportOptions`."""
    options = {
        name: fields.pop(name) for name in ("name", "shard_size", "formulas") if name in fields
    }
    return run_export(
        mill.database,
        storage,
        FolderTarget(target) if isinstance(target, Path) else target,
        export_format=export_format,
        selection=Selection(jobs=jobs, **fields),
        options=ExportOptions(form=form or PictureForm(), **options),
        progress=progress,
    )
