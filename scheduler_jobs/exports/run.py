"""Running an export: plan it, claim the target, write it, and record it."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import PIL
import pyarrow as pa
from sqlalchemy import exc

from imagemill.db.database import Database
from imagemill.db.errors import DatabaseError, StorageError, UsageError
from imagemill.db.models.registry import Registry
from imagemill.db.queries.pictures.exports import finish_export, forget_export, record_export
from imagemill.db.real_paths import real_path
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.exports import record
from imagemill.scheduler_jobs.exports.about.card import write_card
from imagemill.scheduler_jobs.exports.about.croissant import write_croissant
from imagemill.scheduler_jobs.exports.about.facts import facts_of
from imagemill.scheduler_jobs.exports.export import Export, ExportOptions, ExportPlan, make_plan
from imagemill.scheduler_jobs.exports.formats import FORMATS, Format
from imagemill.scheduler_jobs.exports.selection import Selection
from imagemill.scheduler_jobs.exports.sums import SummedTarget
from imagemill.scheduler_jobs.exports.target import Target

log = logging.getLogger(__name__)

SEVERAL_JOBS = "{job_id}-"
"""Before the names of files where an export takes more than one job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportResult:
    """What an export gave. `repeated` says that it was there already, complete and the same."""

    target: str
    format: str
    images: int
    failures: int
    digest: str
    repeated: bool


def run_export(
    database: Database,
    storage: Storage,
    target: Target,
    *,
    export_format: str,
    selection: Selection,
    options: ExportOptions,
    progress: Callable[[int, int], None],
    registry: Registry | None = None,
) -> ExportResult:
    """Export a selection; `progress` is told how many images of how many are written.

    The licences of models come from the `registry`. More than seven parameters: from where, to
    where, what and how are chosen apart from each other, and each by its name. Every pass reads
    one snapshot of the database, so images that end meanwhile change nothing.

    Raises:
        UsageError: the format can't hold what was selected, or the target holds something else.
        StorageError: a picture is damaged, or the target can't be written.
    """
    if "://" not in target.uri and real_path(Path(target.uri)).is_relative_to(Path(storage.uri)):
        raise UsageError(f"--to {target.uri}: inside the store of pictures; name another place")
    layout = FORMATS[export_format]
    options = completed(options, export_format, selection)
    with database.reading() as session:
        plan = make_plan(
            session, selection, options, failures=layout.failures, checked=layout.checked
        )
        facts = facts_of(session, selection, plan, registry)
        document = _document(export_format, selection, options, plan, facts)
        repeated = record.begin(target, document)
        export_id = _recorded(database, target, document)
        if not repeated:
            written = _Progress(plan.images, progress)
            summed = SummedTarget(target)
            export = Export(
                session=session,
                storage=storage,
                target=summed,
                selection=selection,
                options=options,
                plan=plan,
                progress=written.add,
            )
            with _taken_back_if_refused(database, target, export_id):
                layout.write(export)
            write_card(export, document)
            write_croissant(export, document, layout.contents(plan))
            record.finish(target, document, asdict(summed.write_sums()))
    if export_id is not None:
        database.run(lambda session: finish_export(session, export_id))
    return ExportResult(
        target=target.uri,
        format=export_format,
        images=plan.images,
        failures=plan.failures,
        digest=document["digest"],
        repeated=repeated,
    )


def completed(options: ExportOptions, export_format: str, selection: Selection) -> ExportOptions:
    """The options with the format's defaults; a `UsageError` for those that it has no use for."""
    layout = FORMATS[export_format]
    _refuse_unused(options, export_format, layout, selection)
    name = options.name or layout.name
    if options.name is None and name is not None and len(selection.jobs) > 1:
        name = SEVERAL_JOBS + name
    form = options.form
    if layout.image_format is not None:
        form = replace(form, format=layout.image_format)
    return replace(
        options, name=name, shard_size=options.shard_size or layout.shard_size, form=form
    )


def _refuse_unused(
    options: ExportOptions, export_format: str, layout: Format, selection: Selection
) -> None:
    unused = {
        "--name": options.name is not None and layout.name is None,
        "--shard-size": options.shard_size is not None and layout.shard_size is None,
        "--formulas": options.formulas and not layout.tables,
        "--split": bool(selection.splits) and not layout.splits,
        "--watermark": options.form.watermark is not None and not layout.marks,
        "--c2pa": options.form.signer is not None and not layout.marks,
        "--format-images": options.form.format is not None
        and layout.image_format not in (None, options.form.format),
    }
    for option, refused in unused.items():
        if refused:
            raise UsageError(f"{option}: the format {export_format} has no use for it")


def _document(
    export_format: str,
    selection: Selection,
    options: ExportOptions,
    plan: ExportPlan,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The record of an export: equal for two exports whose bytes are equal.

    Its digest is that of the plan and of all that is said here.
    """
    document = {
        "imagemill_export": record.VERSION,
        "format": export_format,
        "selection": selection.document(),
        "options": options.document(),
        "images": plan.images,
        "failures": plan.failures,
        **facts,
        "versions": {
            "imagemill": metadata.version("imagemill"),
            "pillow": PIL.__version__,
            "pyarrow": pa.__version__,
        },
    }
    said = json.dumps([document, plan.digest], sort_keys=True).encode()
    return {**document, "digest": hashlib.sha256(said).hexdigest()}


def _recorded(database: Database, target: Target, document: Mapping[str, Any]) -> int | None:
    """The export's entry in the database; None where this user may only read it."""
    try:
        return database.run(
            lambda session: record_export(session, target=target.uri, document=document)
        )
    except (DatabaseError, exc.ProgrammingError) as error:
        log.warning("the export is not recorded in the database: %s", error)
        return None


@contextmanager
def _taken_back_if_refused(
    database: Database, target: Target, export_id: int | None
) -> Iterator[None]:
    """Leave nothing of an export that can't be made so; only its pictures' pixels could tell."""
    try:
        yield
    except UsageError:
        try:
            if export_id is not None:
                database.run(lambda session: forget_export(session, export_id))
            target.clear()
        except (DatabaseError, StorageError, exc.ProgrammingError) as error:
            log.warning("a part of the refused export stays: %s", error)
        raise


class _Progress:
    """Turns steps into how many images of how many are written."""

    def __init__(self, total: int, show: Callable[[int, int], None]) -> None:
        self._total = total
        self._show = show
        self._written = 0

    def add(self, images: int) -> None:
        self._written += images
        self._show(self._written, self._total)
