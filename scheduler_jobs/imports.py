"""Importing an export's records and files into another database and store.

A job of the export becomes a finished job with the same rows and images. The import is idempotent:
the same export makes the same job, and one that was interrupted goes on where it stopped.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image
from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.errors import UsageError
from imagemill.db.queries.bulk import insert_new
from imagemill.db.queries.jobs import job_rows, lifecycle
from imagemill.db.queries.jobs.lifecycle import NewJob
from imagemill.db.queries.jobs.new_images import NewImages
from imagemill.db.queries.jobs.removed_jobs import claim_removed_files
from imagemill.db.queries.labels import set_labels
from imagemill.db.queries.pictures import environments
from imagemill.db.queries.pictures.objects import find_objects
from imagemill.db.seeds import prompt_hash
from imagemill.db.shared_specs import Request
from imagemill.db.specs import MEDIA_TYPES, ImageSpec, canonical_json, sha256_of
from imagemill.db.states import JobState
from imagemill.db.storage import Storage
from imagemill.db.storage.keys import object_key
from imagemill.db.tables import Job, Object
from imagemill.scheduler_jobs.exports.exported_set import (
    ExportedImage,
    exported_images,
    read_record,
)
from imagemill.scheduler_jobs.exports.record_values import value_problem

_PARAMETERS = (
    *("model", "weights_digest", "prompt", "negative_prompt", "seed", "width", "height"),
    *("steps", "guidance_scale", "sampler", "format"),
)

ROWS_A_STEP = 50
"""Rows whose files and records one transaction takes."""


@dataclass(kw_only=True, slots=True)
class Imported:
    """One job of an import. `created` is False where all of it was there already."""

    job_id: int
    job_name: str
    created: bool
    images: int = 0
    files: int = 0


Row = tuple[int, list[ExportedImage]]


def import_export(
    database: Database, storage: Storage, folder: Path, *, labels: Mapping[str, str]
) -> list[Imported]:
    """Import the export in this folder; its jobs, in the export's order.

    Every record is checked before the first one is stored. Raises `UsageError` for a file that is
    not what its record says, for a picture that the export encoded anew, and for what lacks a
    column.
    """
    digest = str(read_record(folder)["digest"])
    names: dict[int, str] = {}
    for image in exported_images(folder):
        _checked(image)
        names[image.values["job_id"]] = image.values["job_name"]
    return [
        _import_job(database, storage, folder, _new_job(digest, source, name), source, labels)
        for source, name in names.items()
    ]


def _new_job(digest: str, source: int, name: str) -> NewJob:
    return NewJob(
        name=name,
        identity=sha256_of(canonical_json({"import": digest, "job_id": source})),
        manifest=f"export {digest[:16]}, job {source}",
        manifest_sha256=digest,
        defaults={},
    )


def _import_job(
    database: Database,
    storage: Storage,
    folder: Path,
    new: NewJob,
    source: int,
    labels: Mapping[str, str],
) -> Imported:
    def begin(session: Session) -> tuple[Job, bool]:
        job, created = lifecycle.find_or_create(session, new)
        set_labels(session, job.id, labels)
        return job, created

    job, _ = database.run(begin)
    result = Imported(job_id=job.id, job_name=job.name, created=job.state == JobState.LOADING)
    if not result.created:
        return result
    step: list[Row] = []
    for row in _rows(folder, source, after=job.rows_loaded):
        step.append(row)
        if len(step) == ROWS_A_STEP:
            _load(database, storage, result, step)
            step = []
    if step:
        _load(database, storage, result, step)
    database.run(lambda session: lifecycle.open_job(session, job.id))
    # Its own job alone: a dispatcher tells people of every other one that ends.
    database.run(lambda session: lifecycle.finish_jobs(session, job_id=job.id))
    return result


def _rows(folder: Path, source: int, *, after: int) -> Iterator[Row]:
    """The job's rows from the one after the `after`th: their place, and their images."""
    mine = (image for image in exported_images(folder) if image.values["job_id"] == source)
    for place, (_, images) in enumerate(groupby(mine, lambda image: image.values["row_number"]), 1):
        if place > after:
            yield place, list(images)


def _load(database: Database, storage: Storage, result: Imported, rows: Sequence[Row]) -> None:
    images, files = database.run(lambda session: _store(session, storage, result.job_id, rows))
    result.images += images
    result.files += files


def _store(session: Session, storage: Storage, job_id: int, rows: Sequence[Row]) -> tuple[int, int]:
    """Files, objects, rows and images of these rows; how many images and new files."""
    job = job_rows.lock_loading(session, job_id)
    found = [image for _, images in rows for image in images]
    known = find_objects(session, [image.values["request_key"] for image in found], keep=True)
    new = {
        image.values["request_key"]: image
        for image in found
        if image.values["request_key"] not in known
    }
    specs = {id(image): spec_of_record(image) for image in found}
    keys = {request_key: _object_key(image) for request_key, image in new.items()}
    # Nobody deletes a file of a removed job that we are about to use again.
    claim_removed_files(session, list(keys.values()))
    for request_key, image in sorted(new.items()):
        key = keys[request_key]
        storage.put(key, image.body, media_type=MEDIA_TYPES[image.values["format"]])
        session.execute(insert_new(session, Object, _object(session, storage, image, key)))
    for spec in specs.values():
        job_rows.register_model(
            session,
            name=spec.model,
            weights_digest=spec.weights_digest,
            source="imported",
            document={},
        )
    ids = job_rows.insert_rows(session, job, _new_rows(session, job_id, rows))
    new_images = NewImages.of(
        (sample, Request.of(specs[id(image)]))
        for _, images in rows
        for sample, image in enumerate(images)
    )
    row_ids = [row_id for row_id, (_, images) in zip(ids, rows, strict=True) for _ in images]
    job_rows.insert_images(session, job, new_images, row_ids=row_ids)
    job.rows_loaded = rows[-1][0]
    return len(found), len(new)


def _new_rows(session: Session, job_id: int, rows: Sequence[Row]) -> list[job_rows.NewRow]:
    bases = [_key_base(images[0]) for _, images in rows]
    seen = job_rows.count_key_bases(session, job_id, set(bases))
    made = []
    for (place, images), base in zip(rows, bases, strict=True):
        first = images[0]
        given = {name: value for name, value in first.extras.items() if value is not None}
        made.append(
            job_rows.NewRow(
                number=place,
                line=first.values["row_number"],
                verbatim=json.dumps({"prompt": first.values["prompt"], **given}, default=str),
                extras=given,
                key_base=base,
                key_occurrence=seen[base],
            )
        )
        seen[base] += 1
    return made


def _key_base(image: ExportedImage) -> str:
    key = image.values["row_key"]
    return f"prompt:{prompt_hash(image.values['prompt'])}" if key is None else f"id:{key}"


def _object_key(image: ExportedImage) -> str:
    values = image.values
    suffix = "jpg" if values["format"] == "jpeg" else values["format"]
    return object_key(values["request_key"], values["source_sha256"], suffix)


def _object(session: Session, storage: Storage, image: ExportedImage, key: str) -> dict[str, Any]:
    values = image.values
    environment = environments.environment_id(
        session, fingerprint=values["environment"], document=_environment(image)
    )
    return {
        "request_key": values["request_key"],
        "object_key": key,
        "uri": storage.object_uri(key),
        "sha256": values["source_sha256"],
        "pixels_sha256": values["pixels_sha256"],
        "size_bytes": len(image.body),
        "width": values["width"],
        "height": values["height"],
        "format": values["format"],
        "outcome": values["outcome"],
        "cut": values["prompt_cut"],
        "environment_id": environment,
        "seconds": values["seconds"],
        "created_at": values["created_at"],
    }


def _environment(image: ExportedImage) -> dict[str, Any]:
    """The environment that the file says it was rendered in; empty if the file does not say it."""
    try:
        with Image.open(io.BytesIO(image.body)) as picture:
            text = picture.info.get("imagemill")  # in a PNG, our whole record
        document = json.loads(text) if isinstance(text, str) else {}
        found = document.get("environment")
    except (OSError, SyntaxError, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def spec_of_record(image: ExportedImage) -> ImageSpec:
    """The specification in a record. Raises `UsageError` if it is none."""
    values = image.values
    try:
        options = json.loads(values["options"] or "{}")
        return ImageSpec.from_document({**{name: values[name] for name in _PARAMETERS}, **options})
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{_name(image)}: its parameters can't be read: {error}") from None


def _checked(image: ExportedImage) -> None:
    """Raise `UsageError` unless the file and the parameters are those that the record names."""
    values = image.values
    if values["sha256"] != values["source_sha256"]:
        raise UsageError(
            f"{_name(image)}: its file was encoded anew (--resize, --format-images); import an "
            "export of the files as they are"
        )
    if hashlib.sha256(image.body).hexdigest() != values["sha256"]:
        raise UsageError(f"{_name(image)}: its file is not the one that was exported; damaged")
    problem = value_problem(values)
    if problem is not None:
        raise UsageError(f"{_name(image)}: {problem}")
    try:
        named = spec_of_record(image).is_named(str(values["request_key"]))
    except ValueError:  # a number that JSON does not have
        named = False
    if not named:
        raise UsageError(f"{_name(image)}: its parameters are not those of its request key")


def _name(image: ExportedImage) -> str:
    return f"image {image.values['image_id']} of job {image.values['job_id']}"
