"""`/v1/files`: files of batches are uploaded, listed, read and deleted."""

import secrets
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from imagemill.db.database import Database
from imagemill.db.queries.api import files, requests
from imagemill.db.queries.api.files import FileReport
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.api.access import Caller, caller_of
from imagemill.scheduler_jobs.api.addresses import base_of, picture_address, secret_of
from imagemill.scheduler_jobs.api.admission import ApiLimits
from imagemill.scheduler_jobs.api.batch_files.results import Results, batch_of, file_ids
from imagemill.scheduler_jobs.api.refusals import NOT_AGAIN, ApiError, not_found
from imagemill.scheduler_jobs.api.requests.bodies import Upload, read_page, read_upload

FOR_BATCHES = "batch"
PURPOSES = (FOR_BATCHES, "vision", "user_data")
"""Requests of a batch, and pictures to start from."""

_MOST_LISTED = 10_000


class Files:
    """The addresses of files. Files of results are read from the batch's job."""

    def __init__(self, database: Database, storage: Storage, *, limits: ApiLimits) -> None:
        self._database = database
        self._storage = storage
        self._limits = limits

    async def upload(self, request: Request) -> Response:
        """Store a file for a batch."""
        caller = caller_of(request, writes=True)
        upload = await read_upload(request, most_bytes=self._limits.file_bytes)
        _check(upload)
        return JSONResponse(await run_in_threadpool(self._store, caller, upload))

    def every(self, request: Request) -> Response:
        """The uploaded files, newest first; files of results stand with their batches."""
        caller = caller_of(request)
        page = read_page(request, most=_MOST_LISTED, usual=_MOST_LISTED)
        if request.query_params.get("order", "desc") != "desc":
            raise ApiError("Files are listed newest first", param="order", code="invalid_value")
        with self._database.reading() as session:
            found = files.list_files(
                session,
                owner=caller.sees_only,
                purpose=request.query_params.get("purpose"),
                limit=page.limit + 1,
                after=page.after,
            )
        return JSONResponse(page.body([_described(each) for each in found]))

    def one(self, request: Request) -> Response:
        """What a file is."""
        caller, file_id = caller_of(request), request.path_params["file"]
        result = self._result(caller, file_id)
        if result is None:
            return JSONResponse(_described(self._uploaded(caller, file_id)))
        batch, which = result
        results = self._results(request, caller)
        assert batch.ended_at is not None, "a batch has files of results once it has ended"
        return JSONResponse(
            {
                "id": file_id,
                "object": "file",
                "bytes": results.size_bytes(batch, which),
                "created_at": int(batch.ended_at.timestamp()),
                "filename": f"{batch.id}_{which}.jsonl",
                "purpose": "batch_output",
                "status": "processed",
            }
        )

    def content(self, request: Request) -> Response:
        """A file's bytes."""
        caller, file_id = caller_of(request), request.path_params["file"]
        result = self._result(caller, file_id)
        if result is not None:
            lines = self._results(request, caller).lines(*result)
            return StreamingResponse(lines, media_type="application/jsonl")
        self._uploaded(caller, file_id)
        with self._database.reading() as session:
            content = files.file_content(session, file_id)
        if content is None:
            raise not_found("File object", file_id)
        return Response(content, media_type="application/octet-stream")

    def delete(self, request: Request) -> Response:
        """Delete an uploaded file that no batch has yet to read."""
        caller, file_id = caller_of(request, writes=True), request.path_params["file"]
        if self._result(caller, file_id) is not None:
            raise ApiError(
                "Files of results are read from the batch's job; `imagemill rm` removes that",
                param="file_id",
                code="not_deletable",
            )
        self._uploaded(caller, file_id)
        if not self._database.run(partial(_delete, file_id=file_id)):
            raise ApiError(
                "A batch has yet to read this file",
                status=409,
                param="file_id",
                code="file_in_use",
                headers=NOT_AGAIN,
            )
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    def _store(self, caller: Caller, upload: Upload) -> dict[str, Any]:
        file_id = f"file-{secrets.token_hex(16)}"
        stored = self._database.run(
            lambda session: files.add_file(
                session,
                file_id=file_id,
                owner=caller.name,
                filename=upload.filename,
                purpose=upload.fields["purpose"],
                content=upload.content,
            )
        )
        return _described(stored)

    def _uploaded(self, caller: Caller, file_id: str) -> FileReport:
        with self._database.reading() as session:
            found = files.find_file(session, file_id, owner=caller.sees_only)
        if found is None:
            raise not_found("File object", file_id)
        return found

    def _result(self, caller: Caller, file_id: str) -> tuple[requests.Request, str] | None:
        """The batch whose results a file has, and which; None for an uploaded file's id."""
        named = batch_of(file_id)
        if named is None:
            return None
        batch_id, which = named
        with self._database.reading() as session:
            batch = requests.find_request(
                session, batch_id, owner=caller.sees_only, kind=requests.BATCH
            )
        if batch is None or file_id not in file_ids(batch):
            raise not_found("File object", file_id)
        return batch, which

    def _results(self, request: Request, caller: Caller) -> Results:
        with self._database.reading() as session:
            secret = secret_of(session, caller)
        base = base_of(request)
        return Results(
            database=self._database,
            storage=self._storage,
            address_of=partial(picture_address, base, owner=caller.name, secret=secret),
        )


def _check(upload: Upload) -> None:
    if upload.fields.get("purpose") not in PURPOSES:
        raise ApiError(
            "The purpose of a file is 'batch' here, or 'vision' for a picture",
            param="purpose",
            code="invalid_value",
        )
    if not upload.content.strip():
        raise ApiError(
            "The file is empty: nothing is in it, or only spaces", param="file", code="empty_file"
        )
    unknown = sorted(set(upload.fields) - {"purpose"})
    if unknown:
        raise ApiError(
            f"Unknown parameter: {unknown[0][:80]!r}; the settings say how long files stay",
            param=unknown[0][:200],
            code="unknown_parameter",
        )


def _delete(session: Any, *, file_id: str) -> bool:
    if requests.waits_for_file(session, file_id):
        return False
    files.delete_file(session, file_id)
    return True


def _described(file: FileReport) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at.timestamp()),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }
