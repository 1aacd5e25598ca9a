"""What each view shows, and what each of its columns says: one table for Postgres and the docs.

Postgres keeps these texts as comments, which `psql` and SQL editors show; `python -m tools.pages`
writes them into docs/database.md. A test fails where a view has a column that is not here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sqlalchemy import Connection, inspect


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewText:
    """A view in words: what a line of it is, and its columns in their order."""

    line: str
    columns: Mapping[str, str]


_JOB = {
    "job_id": "The job's number.",
    "job_name": "The job's name; names may repeat.",
}
_ROW = {
    "row_number": "The manifest's row, counted from 1 without a header.",
    "row_key": "`id:` and the row's own `id`, or `prompt:` and its prompt's SHA-256.",
}

VIEWS: Mapping[str, ViewText] = MappingProxyType(
    {
        "dataset_images": ViewText(
            line="One requested image, whatever its state.",
            columns={
                "image_id": "The image's number; larger for images that were asked for later.",
                **_JOB,
                "row_number": _ROW["row_number"],
                "sample_index": "Which of the row's samples it is, counted from 0.",
                "state": "`ready`, `leased`, `done`, `dead` or `cancelled`.",
                "outcome": "The picture's quality: `ok`, `truncated_prompt`, `nan` or `blank`; "
                "NULL until done.",
                "prompt": "The prompt, after expansion.",
                "negative_prompt": "The negative prompt; empty if there is none.",
                "seed": "The seed, up to 2^64 - 1: `numeric` on Postgres; on SQLite a seed from "
                "2^63 is its digits as text.",
                "object_key": "The stored file's key, which never changes; NULL until done.",
                "uri": "The file's present address: the store's, and the key; NULL until done.",
                "sha256": "SHA-256 of the file; NULL until done.",
                "pixels_sha256": "SHA-256 of the decoded pixels; NULL until done.",
                "model": "The model's name in the manifest or the job.",
                "weights_digest": "SHA-256 of the model's weights and configuration.",
                "width": "Width in pixels.",
                "height": "Height in pixels.",
                "steps": "Denoising steps.",
                "guidance_scale": "Scale of classifier-free guidance.",
                "sampler": "The sampler's name.",
                "format": "The file's format: `png`, `jpeg` or `webp`.",
                "options": "JSON: the parameters that are not at their default.",
                "request_key": "SHA-256 of the whole request; images with the same one share a "
                "file.",
                "row_key": _ROW["row_key"],
                "extras": "JSON: the manifest's columns that imagemill does not know.",
                "prompt_cut": "The part of the prompt that the text encoder did not read; NULL if "
                "none.",
                "size_bytes": "Bytes of the file; NULL until done.",
                "seconds": "The image's share of the engine's time, in seconds; NULL until done.",
                "created_at": "When the file was recorded, in UTC; NULL until done.",
                "environment": "Fingerprint of the hardware and software that rendered it.",
                "composition": "Digest of the recorded micro-batch that it was rendered in; NULL "
                "with continuous batches.",
                "generation": "How often it was opened for rendering; `retry` adds one.",
                "error_code": "The code of the last error; NULL if there is none.",
                "error_message": "The last error in words; NULL if there is none.",
                "tags": "JSON: the image's tags, sorted; `[]` without any.",
            },
        ),
        "dataset_scores": ViewText(
            line="One score of an image's present picture; scores.md says what each means.",
            columns={
                "image_id": "The image's number.",
                **_JOB,
                "name": "The score's name.",
                "value": "The score, if it is a number; else NULL.",
                "text": "The score, if it is a text such as a hash or a caption; else NULL.",
                "scorer": "The scorer that gave it.",
                "version": "The version of the scorer.",
                "created_at": "When it was recorded, in UTC.",
            },
        ),
        "dataset_jobs": ViewText(
            line="One job, with exact counts of its images.",
            columns={
                **_JOB,
                "state": "`loading`, `open`, `paused`, `finished`, `cancelled` or `rejected`.",
                "priority": "Jobs with a higher number go first.",
                "route": "The label of the workers that render it.",
                "seed": "The job's seed, from which rows without one derive theirs.",
                "manifest": "The manifest's name, as it was given.",
                "manifest_sha256": "SHA-256 of the manifest's bytes.",
                "defaults": "JSON: the parameters of rows that do not set their own.",
                "rows_loaded": "Rows of the manifest that were read so far.",
                "bad_rows": "Rows that were refused; `dataset_failures` has them.",
                "requested": "Images asked for: the sum of the next five columns.",
                "ready": "Images that wait for a worker.",
                "leased": "Images that a worker holds.",
                "done": "Images with a file, whatever its outcome.",
                "dead": "Images that failed for good; `dataset_failures` has them.",
                "cancelled": "Images that were cancelled before they were done.",
                "labels": "JSON: the job's labels, each with its value.",
                "note": "The note that people wrote to it; NULL if there is none.",
                "message": "Why the job was rejected or cancelled; NULL if there is no reason.",
                "created_at": "When it was submitted, in UTC.",
                "opened_at": "When its last row was read and its images could be claimed, in UTC.",
                "finished_at": "When nothing was left to render, in UTC; NULL until then.",
                "owner": "Who submitted it, for sharing workers; empty if nobody said.",
            },
        ),
        "dataset_failures": ViewText(
            line="One image that failed for good, or one row of a manifest that was refused.",
            columns={
                "kind": "`image`: a dead image; `row`: a refused row of a job that took the "
                "others.",
                **_JOB,
                **_ROW,
                "image_id": "The image's number; NULL for a row.",
                "sample_index": "Which of the row's samples, counted from 0; NULL for a row.",
                "prompt": "The image's prompt; NULL for a row.",
                "model": "The image's model; NULL for a row.",
                "error_code": "The error's code, as in errors.md; `manifest` for a row.",
                "error_message": "What went wrong, in one line.",
                "failed_at": "When the image failed for good, in UTC; NULL for a row.",
                "verbatim": "The row as the manifest has it.",
            },
        ),
    }
)
"""Every view for readers, by name."""


def describe_views(connection: Connection) -> None:
    """Give every view that is there, and each column of it that is there, its comment.

    Only on Postgres: SQLite keeps none. A migration that makes a view anew calls this again.
    """
    if connection.dialect.name != "postgresql":
        return
    there = inspect(connection)
    for view in sorted(VIEWS.keys() & set(there.get_view_names())):
        columns = {column["name"] for column in there.get_columns(view)}
        for statement in _comments(view, columns):
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _comments(view: str, there: set[str]) -> Iterator[str]:
    text = VIEWS[view]
    yield f"COMMENT ON VIEW {view} IS {_quoted(text.line)}"
    for name, meaning in text.columns.items():
        if name in there:
            yield f"COMMENT ON COLUMN {view}.{name} IS {_quoted(meaning)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
