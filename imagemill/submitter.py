"""Submitting from Python: `imagemill.submit` queues rows, `imagemill.run` renders them here.

Both read rows as the commands of the same name read a file, through the same functions: the same
names and synonyms of columns, the same extras, the same refusals.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from imagemill.db.database import Database
from imagemill.db.errors import ManifestError, UsageError
from imagemill.db.queries.tallies import Counts
from imagemill.db.schema import ensure_schema
from imagemill.db.settings import Settings
from imagemill.jobs import Job
from imagemill.notebook import progress as showing
from imagemill.reader import Mill, open_mill
from imagemill.scheduler_jobs.manifest.program_rows import (
    ROWS,
    is_table,
    rows_source,
    table_source,
)
from imagemill.scheduler_jobs.submit.options import SubmissionOptions
from imagemill.scheduler_jobs.submit.request import SubmissionRequest
from imagemill.scheduler_jobs.submit.submission import check_and_submit

_WHAT = {"manifests", "prompts", "rows", "parameters"}
_JOB_OPTIONS = {each.name for each in fields(SubmissionOptions)} - _WHAT
_NOTED = 20
"""Bad rows that are named under an exception; `problems` has all of them."""


def submit(what: Any, *, settings: Mapping[str, Any] | None = None, **options: Any) -> Job:
    """Queue rows for the workers, and return their job; nothing is queued if a row is bad.

        job = imagemill.submit([{"prompt": "a red circle", "seed": 7}], steps=20, samples=4)
        job.wait()

    The same rows with the same options add nothing the second time. The database and the broker
    are those of the settings (`IMAGEMILL_*`, imagemill.toml).

    Args:
        what: rows (mappings, in a list or a stream), prompts (a list of texts), a table (pandas,
            polars, pyarrow), or the path of a manifest, as `imagemill submit` takes it.
        settings: values of settings that win over the environment's, such as `database_url`.
        **options: of the job: `name`, `seed`, `priority`, `owner`, `weight`, `max_workers`,
            `needs`, `deadline`, `route`, `labels`, `columns` (column to field), `extra`,
            `manifest_format`, `defaults_file`, `grid`, `variants`, `draws`, `wildcards`,
            `skip_bad_rows`, `literal_words`, `strict`, `notify` (addresses of webhooks). All
            others are defaults for rows: `steps=20`, `model="sd15"`, …

    Raises:
        ManifestError: rows or defaults are bad; its `problems` and notes name row and column.
        UsageError: an option, a setting or the database can't be used.
        ServiceError: the database does not answer.
    """
    found = Settings.load(**(settings or {}))
    request = _request(what, options, found)
    database = Database.from_settings(found)
    try:
        ensure_schema(database)
        with _noted():
            submission = check_and_submit(request, settings=found, database=database)
        mill = Mill.of(database, found)
    except BaseException:
        database.close()
        raise
    return Job(mill, submission.job_id, submission.job_name, submission=submission)


def run(
    what: Any,
    out: str | os.PathLike[str],
    *,
    picture_name: str | None = None,
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Job:
    """Render rows here and now into the folder `out`, with no server; return their job.

        imagemill.run(["a red circle", "a blue star"], "out", steps=20)

    The same call goes on where it was stopped, and does nothing when all is done. In a notebook,
    progress and pictures stand under the cell. Ctrl-C (or the stop button) lets the worker finish,
    and returns the job; `job.result.interrupted` says so.

    Args:
        what: as in `submit`.
        out: a folder for pictures and database; created if it is not there.
        picture_name: names of the files in `out/pictures`: `"{key}-{sampler}-{seed}"`.
        progress: whether progress is shown.
        settings: values of settings that win over the environment's, such as `device`.
        **options: as in `submit`.

    Raises:
        ManifestError: rows or defaults are bad; its `problems` and notes name row and column.
        UsageError: an option or the folder can't be used.
        ServiceError: the worker keeps ending; the message says where its log is.
    """
    from imagemill.scheduler_jobs.local import run as embedded_run  # noqa: PLC0415  # starts servers

    if not os.fspath(out):
        raise UsageError("out: an empty path; a folder for pictures")
    folder = Path(out)
    found = Settings.for_home(folder, **(settings or {}))
    request = _request(what, options, found)
    named: dict[str, Any] = {} if picture_name is None else {"picture_name": picture_name}
    with showing(request.name or _title(request), shown=progress) as show, _noted():
        result = embedded_run.run(
            request,
            settings=found,
            out=folder,
            progress=lambda counts: show(counts, _note(counts)),
            **named,
        )
        pending = result.requested - result.done - result.dead
        show(Counts(ready=pending, done=result.done, dead=result.dead), "")
    mill = open_mill(folder, **(settings or {}))
    return Job(mill, result.job_id, result.job_name, result=result)


def _note(counts: Counts) -> str:
    return "waiting for the worker" if counts.pending and not counts.leased else ""


def _title(request: SubmissionRequest) -> str:
    manifest = request.manifest
    return Path(manifest if isinstance(manifest, str) else manifest[0]).name


def _request(what: Any, options: dict[str, Any], settings: Settings) -> SubmissionRequest:
    job = {name: options.pop(name) for name in list(options) if name in _JOB_OPTIONS}
    for name, read in _READ.items():
        if name in job:
            job[name] = read(job[name])
    asked = SubmissionOptions(**_given(what), **job, parameters=options)
    return asked.request(settings, where="keywords")


def _given(what: Any) -> dict[str, Any]:
    """What is to be rendered, as options have it."""
    if isinstance(what, str | os.PathLike):
        return {"manifests": (os.fspath(what),)}
    if is_table(what):
        return {"manifests": (ROWS,), "rows": partial(table_source, what)}
    if isinstance(what, list | tuple) and what:
        if all(isinstance(each, str) for each in what):
            return {"prompts": tuple(what)}
        if all(isinstance(each, os.PathLike) for each in what):
            return {"manifests": tuple(map(os.fspath, what))}
    if isinstance(what, Mapping | bytes) or not isinstance(what, Iterable):
        raise UsageError(
            f"{type(what).__name__}: expected rows (a list of mappings), prompts (a list of "
            "texts), a table, or a path; one row is [row]"
        )
    return {"manifests": (ROWS,), "rows": partial(rows_source, what)}


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _grid(value: Any) -> tuple[str, ...]:
    """Axes as texts: `{"steps": [10, 20]}` is `steps=10,20`."""
    if not isinstance(value, Mapping):
        return _texts(value)
    return tuple(f"{name}={','.join(map(str, values))}" for name, values in value.items())


def _labels(value: Any) -> tuple[str, ...]:
    if not isinstance(value, Mapping):
        return _texts(value)
    return tuple(f"{key}={text}" if text else str(key) for key, text in value.items())


def _path(value: Any) -> Path | None:
    return None if value is None else Path(value)


_READ = {
    "extra": _texts,
    "grid": _grid,
    "labels": _labels,
    "notify": _texts,
    "wildcards": _path,
    "defaults_file": _path,
}
"""How options come from Python's own values."""


@contextmanager
def _noted() -> Iterator[None]:
    """Within it, a `ManifestError` gets a note for each bad row: a traceback shows them."""
    try:
        yield
    except ManifestError as error:
        for problem in error.problems[:_NOTED]:
            error.add_note(str(problem))
        if len(error.problems) > _NOTED:
            error.add_note(f"… and {len(error.problems) - _NOTED:,} more in its `problems`")
        raise
