"""The command `reproduce`: finds the samples and prints the results."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from imagemill.db.database import Database
from imagemill.db.errors import ObjectConflict, OverLimit, RecordError, RenderError
from imagemill.db.process.logs import printable
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.pictures.originals import Original, find_originals, sample_originals
from imagemill.db.schema import ensure_schema
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.db.storage.factory import open_storage
from imagemill.db.storage.inputs import fetch_input
from imagemill.worker.files.encoder import read_record
from imagemill.worker.files.records import Pixels
from imagemill.worker.reproducibility.certificate import HOW_TO_KEEP_BITS
from imagemill.worker.reproducibility.reproduce import Reproduction, Sample, reproduce
from imagemill.worker.shifts.limits import RenderLimits

_ALONE = (
    "it was rendered in a recorded batch, and the file does not name the other images: "
    "give its id or --job, and its database"
)
_NOT_CERTIFIED = f"its certificate says that bits depend on the batch; {HOW_TO_KEEP_BITS}"

_FREE = "it was rendered with reproducible = false, so no bits were promised"

_MOST_OF_EITHER = 512
"""The most slots that the setting allows. More threads than that would help on no machine."""

_SHOWN = 80
"""The most characters of a value from a file that a line shows."""


def collect(
    settings: Settings, *, what: Sequence[str], job: str | None, sample: int
) -> list[Sample]:
    """The samples that a command line names: images by id, files, and some images of a job."""
    ids = [int(word) for word in what if word.isdecimal()]
    samples = [_from_file(Path(word), settings) for word in what if not word.isdecimal()]
    if not ids and job is None:
        return samples
    database = Database.from_settings(settings)
    ensure_schema(database)
    with database.reading() as session:
        originals = find_originals(session, ids)
        if job is not None:
            originals += sample_originals(session, find_job(session, job).id, sample)
    database.close()
    storage = open_storage(settings)
    return samples + [_from_database(original, storage, settings) for original in originals]


def report(samples: Sequence[Sample], settings: Settings, *, as_json: bool) -> bool:
    """Render and compare the samples, print each result; return whether every promise was kept."""
    reproductions = []
    inputs = partial(fetch_input, open_storage(settings))
    for reproduction in reproduce(samples, settings, inputs=inputs):
        reproductions.append(reproduction)
        click.echo(
            json.dumps(_document(reproduction)) if as_json else printable(_line(reproduction))
        )
    identical = sum(reproduction.identical for reproduction in reproductions)
    total = {
        "checked": len(reproductions),
        "identical": identical,
        "different": len(reproductions) - identical,
    }
    if as_json:
        click.echo(json.dumps(total))
    else:
        click.echo(f"{identical} of {len(reproductions)} identical")
    return not any(reproduction.broken for reproduction in reproductions)


def _from_file(path: Path, settings: Settings) -> Sample:
    """The sample in a file. A file may come from anybody, so a manifest row's limits apply."""
    record, pixels = read_record(path, max_pixels=settings.max_pixels)
    try:
        RenderLimits.from_settings(settings).check_spec(record.spec)
        _check_shape(record.environment)
    except RenderError as error:
        raise RecordError(f"{path}: {error}") from None
    return Sample(
        name=str(path),
        spec=record.spec,
        environment=record.environment,
        pixels_sha256=record.pixels_sha256,
        read=lambda: pixels,
    )


def _check_shape(environment: Mapping[str, Any]) -> None:
    """Check the B and the number of threads that a file names, because we will use them."""
    shapes = environment.get("shapes") or {}
    if not isinstance(shapes, Mapping):
        raise OverLimit(f"shapes: {printable(str(shapes)[:_SHOWN])} where a table is allowed")
    slots = shapes.get("slots")
    for name, value in (("slots", slots), ("threads", environment.get("threads"))):
        whole = isinstance(value, int) and 1 <= value <= _MOST_OF_EITHER
        if value is not None and not whole:
            found = printable(str(value)[:_SHOWN])
            raise OverLimit(f"{name}: {found} where 1 to {_MOST_OF_EITHER} are allowed")


def _from_database(original: Original, storage: Storage, settings: Settings) -> Sample:
    def read() -> Pixels:
        record, pixels = read_record(
            storage.get(original.object_key), max_pixels=settings.max_pixels
        )
        if record.pixels_sha256 != original.pixels_sha256:
            raise ObjectConflict(f"{original.object_key} is not the file that was recorded")
        return pixels

    return Sample(
        name=str(original.image_id),
        spec=original.spec,
        environment=original.environment,
        pixels_sha256=original.pixels_sha256,
        read=read,
        certified=original.certified,
        together=original.together,
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _document(reproduction: Reproduction) -> dict[str, object]:
    return {
        "image_id": int(reproduction.name) if reproduction.name.isdecimal() else None,
        "file": None if reproduction.name.isdecimal() else reproduction.name,
        "identical": reproduction.identical,
        "psnr": None
        if reproduction.psnr is None or math.isinf(reproduction.psnr)
        else reproduction.psnr,
        "same_environment": reproduction.same_environment,
        "alone": reproduction.alone,
        "reproducible": not reproduction.free,
        "certified": reproduction.certified,
        "changed": {name: list(values) for name, values in reproduction.changed.items()},
        "error": reproduction.error,
    }


def _line(reproduction: Reproduction) -> str:
    if reproduction.error is not None:
        return f"{reproduction.name}: not rendered: {reproduction.error}"
    if reproduction.identical:
        return f"{reproduction.name}: identical"
    where = (
        "in the same environment"
        if reproduction.same_environment
        else ", ".join(
            f"{_short(name)} was {_short(then)}, is {_short(now)}"
            for name, (then, now) in reproduction.changed.items()
        )
    )
    line = f"{reproduction.name}: different, PSNR {reproduction.psnr:.1f} dB ({where})"
    if reproduction.alone:
        return f"{line}; {_ALONE}"
    if reproduction.free:
        return f"{line}; {_FREE}"
    if reproduction.broken and reproduction.certified is False:
        return f"{line}; {_NOT_CERTIFIED}"
    return line
